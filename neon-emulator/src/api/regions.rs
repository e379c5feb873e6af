//! Neon's regions. Whichever a project is in, it is on this machine.

use axum::Json;
use neon_api::OrganizationId;
use neon_api::types::{ActiveRegionsResponse, Project, RegionResponse};
use serde::Deserialize;

use super::account::check_organization;
use super::error::{ApiError, ApiResult};
use super::extract::Parameters;
use crate::new::REGION;

/// Id, name, latitude, longitude.
const REGIONS: [(&str, &str, &str, &str); 11] = [
    (REGION, "AWS US East 2 (Ohio)", "39.96", "-83.00"),
    (
        "aws-us-east-1",
        "AWS US East 1 (N. Virginia)",
        "38.13",
        "-78.45",
    ),
    (
        "aws-us-west-2",
        "AWS US West 2 (Oregon)",
        "46.15",
        "-123.88",
    ),
    (
        "aws-eu-central-1",
        "AWS Europe Central 1 (Frankfurt)",
        "50.11",
        "8.68",
    ),
    (
        "aws-eu-west-2",
        "AWS Europe West 2 (London)",
        "51.51",
        "-0.13",
    ),
    (
        "aws-ap-southeast-1",
        "AWS Asia Pacific 1 (Singapore)",
        "1.37",
        "103.80",
    ),
    (
        "aws-ap-southeast-2",
        "AWS Asia Pacific 2 (Sydney)",
        "-33.86",
        "151.20",
    ),
    (
        "aws-sa-east-1",
        "AWS South America East 1 (São Paulo)",
        "-23.55",
        "-46.63",
    ),
    (
        "azure-eastus2",
        "Azure East US 2 (Virginia)",
        "36.66",
        "-78.39",
    ),
    (
        "azure-westus3",
        "Azure West US 3 (Arizona)",
        "33.45",
        "-112.07",
    ),
    (
        "azure-gwc",
        "Azure Germany West Central (Frankfurt)",
        "50.11",
        "8.68",
    ),
];

#[derive(Debug, Deserialize)]
pub(super) struct RegionsQuery {
    org_id: Option<OrganizationId>,
}

pub(super) async fn list(
    Parameters(query): Parameters<RegionsQuery>,
) -> ApiResult<Json<ActiveRegionsResponse>> {
    check_organization(query.org_id.as_ref())?;
    let regions = REGIONS.map(|(id, name, latitude, longitude)| RegionResponse {
        region_id: id.to_owned(),
        name: name.to_owned(),
        default: id == REGION,
        geo_lat: latitude.to_owned(),
        geo_long: longitude.to_owned(),
    });
    Ok(Json(ActiveRegionsResponse {
        regions: regions.to_vec(),
    }))
}

/// Checks that Neon has a region, where one is named.
pub(super) fn check(field: &str, wanted: Option<&str>) -> ApiResult<()> {
    match wanted {
        Some(wanted) if REGIONS.iter().all(|(id, ..)| *id != wanted) => Err(ApiError::bad_request(
            format!("{field}: there is no region {wanted:?}"),
        )),
        _ => Ok(()),
    }
}

/// Checks that a region, where one is named, is the project's.
pub(super) fn check_same(field: &str, wanted: Option<&str>, project: &Project) -> ApiResult<()> {
    check(field, wanted)?;
    match wanted {
        Some(wanted) if wanted != project.region_id => Err(ApiError::bad_request(format!(
            "{field}: the project is in {}, not in {wanted}",
            project.region_id
        ))),
        _ => Ok(()),
    }
}
