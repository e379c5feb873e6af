//! The account: who calls, and its organization.

use axum::{Extension, Json};
use neon_api::OrganizationId;
use neon_api::types::{
    AuthDetailsResponse, AuthMethod, AvailablePreloadLibraries, BillingAccount,
    BillingSubscriptionType, CurrentUserAuthAccount, CurrentUserInfoResponse, Organization,
    OrganizationsResponse, PaymentSource,
};

use super::error::{ApiError, ApiResult};
use super::extract::{InOrganization, InProject, Names};
use super::guard::Caller;
use super::{Shared, projects};
use crate::account::{self, KeyOwner, PLAN, USER_EMAIL, USER_ID, USER_NAME};
use crate::engine::Engine;

pub(super) async fn auth(
    Extension(Caller(owner)): Extension<Caller>,
) -> ApiResult<Json<AuthDetailsResponse>> {
    Ok(Json(match owner {
        KeyOwner::User => AuthDetailsResponse {
            account_id: USER_ID.to_string(),
            auth_method: AuthMethod::ApiKeyUser,
            auth_data: None,
        },
        KeyOwner::Organization { .. } => AuthDetailsResponse {
            account_id: account::organization()?.to_string(),
            auth_method: AuthMethod::ApiKeyOrganization,
            auth_data: None,
        },
    }))
}

pub(super) async fn user(engine: Shared) -> Json<CurrentUserInfoResponse> {
    let limits = engine.limits();
    Json(CurrentUserInfoResponse {
        active_seconds_limit: 0,
        billing_account: Some(billing_account(&engine)),
        auth_accounts: vec![CurrentUserAuthAccount {
            email: USER_EMAIL.to_owned(),
            image: String::new(),
            login: USER_NAME.to_owned(),
            name: USER_NAME.to_owned(),
            provider: "keycloak".to_owned(),
        }],
        email: USER_EMAIL.to_owned(),
        id: USER_ID,
        image: String::new(),
        login: USER_NAME.to_owned(),
        name: USER_NAME.to_owned(),
        last_name: String::new(),
        projects_limit: limits.projects.into(),
        branches_limit: limits.branches.into(),
        max_autoscaling_limit: 0.0,
        plan: PLAN.to_owned(),
    })
}

pub(super) async fn organizations(engine: Shared) -> ApiResult<Json<OrganizationsResponse>> {
    Ok(Json(OrganizationsResponse {
        organizations: vec![organization_of(&engine)?],
    }))
}

pub(super) async fn organization(
    engine: Shared,
    Names(names): Names<InOrganization>,
) -> ApiResult<Json<Organization>> {
    check_organization(Some(&names.org_id))?;
    Ok(Json(organization_of(&engine)?))
}

/// None: `shared_preload_libraries` is not for callers here.
pub(super) async fn preload_libraries(
    engine: Shared,
    Names(names): Names<InProject>,
) -> ApiResult<Json<AvailablePreloadLibraries>> {
    engine
        .store()
        .read(|state| projects::find(state, &names.project_id).map(|_| ()))?;
    Ok(Json(AvailablePreloadLibraries::default()))
}

/// Checks that an organization, where one is named, is the one that there is.
pub(super) fn check_organization(id: Option<&OrganizationId>) -> ApiResult<()> {
    match id {
        Some(id) if *id != account::organization()? => Err(ApiError::not_found("organization")),
        _ => Ok(()),
    }
}

/// Nobody pays here. Some clients want to know it nevertheless.
fn billing_account(engine: &Engine) -> BillingAccount {
    BillingAccount {
        state: "active".to_owned(),
        payment_source: PaymentSource {
            source_type: String::new(),
        },
        subscription_type: BillingSubscriptionType::Scale,
        payment_method: "none".to_owned(),
        quota_reset_at_last: engine.store().read(|state| state.created_at),
        name: USER_NAME.to_owned(),
        email: USER_EMAIL.to_owned(),
        address_city: String::new(),
        address_country: String::new(),
        address_line1: String::new(),
        address_line2: String::new(),
        address_postal_code: String::new(),
        address_state: String::new(),
    }
}

fn organization_of(engine: &Engine) -> ApiResult<Organization> {
    let created_at = engine.store().read(|state| state.created_at);
    Ok(Organization {
        id: account::organization()?,
        name: account::ORGANIZATION_NAME.to_owned(),
        handle: "local".to_owned(),
        plan: PLAN.to_owned(),
        created_at,
        managed_by: "console".to_owned(),
        updated_at: created_at,
    })
}
