//! API keys: the user's, and the organization's. A key is shown once, when it
//! is made; what is kept is its hash.

use axum::Json;
use neon_api::types::{
    ApiKeyCreateRequest, ApiKeyCreateResponse, ApiKeyCreatorData, ApiKeyListItem,
    ApiKeyRevokeResponse,
};

use super::account::check_organization;
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InOrganization, Names, OfApiKey, OfOrganizationApiKey};
use super::{Shared, projects};
use crate::account::{ApiKeyRecord, KeyOwner, USER_ID, USER_NAME, fingerprint};
use crate::engine::Engine;
use crate::names;
use crate::time::now;

const NAME_CHARACTERS_MAX: usize = 64;
/// Where callers are: the emulator listens on loopback alone.
const ADDRESS: &str = "127.0.0.1";

pub(super) async fn list(engine: Shared) -> Json<Vec<ApiKeyListItem>> {
    list_of(&engine, false)
}

pub(super) async fn create(
    engine: Shared,
    Body(request): Body<ApiKeyCreateRequest>,
) -> ApiResult<Json<ApiKeyCreateResponse>> {
    create_for(&engine, request.key_name, KeyOwner::User)
}

pub(super) async fn revoke(
    engine: Shared,
    Names(names): Names<OfApiKey>,
) -> ApiResult<Json<ApiKeyRevokeResponse>> {
    revoke_of(&engine, names.key_id, false)
}

pub(super) async fn list_of_organization(
    engine: Shared,
    Names(names): Names<InOrganization>,
) -> ApiResult<Json<Vec<ApiKeyListItem>>> {
    check_organization(Some(&names.org_id))?;
    Ok(list_of(&engine, true))
}

pub(super) async fn create_of_organization(
    engine: Shared,
    Names(names): Names<InOrganization>,
    Body(request): Body<ApiKeyCreateRequest>,
) -> ApiResult<Json<ApiKeyCreateResponse>> {
    check_organization(Some(&names.org_id))?;
    let project = request.project_id;
    create_for(
        &engine,
        request.key_name,
        KeyOwner::Organization { project },
    )
}

pub(super) async fn revoke_of_organization(
    engine: Shared,
    Names(names): Names<OfOrganizationApiKey>,
) -> ApiResult<Json<ApiKeyRevokeResponse>> {
    check_organization(Some(&names.org_id))?;
    revoke_of(&engine, names.key_id, true)
}

fn list_of(engine: &Engine, of_organization: bool) -> Json<Vec<ApiKeyListItem>> {
    engine.store().read(|state| {
        let keys = state.api_keys.values();
        Json(
            keys.filter(|record| is_of_organization(record) == of_organization)
                .map(list_item)
                .collect(),
        )
    })
}

fn create_for(
    engine: &Engine,
    name: String,
    owner: KeyOwner,
) -> ApiResult<Json<ApiKeyCreateResponse>> {
    if !(1..=NAME_CHARACTERS_MAX).contains(&name.chars().count()) {
        return Err(ApiError::bad_request(format!(
            "key_name must have 1 to {NAME_CHARACTERS_MAX} characters"
        )));
    }
    let key = names::api_key();
    engine.change(|state| {
        if let Some(project) = owner.project() {
            projects::find(state, project)?;
        }
        let id = state.next_api_key_id;
        state.next_api_key_id += 1;
        let record = ApiKeyRecord {
            id,
            name,
            sha256: fingerprint(&key),
            created_at: now(),
            last_used_at: None,
            owner,
        };
        let answer = ApiKeyCreateResponse {
            id,
            key: key.into(),
            name: record.name.clone(),
            created_at: record.created_at,
            created_by: USER_ID,
            project_id: record.owner.project().cloned(),
        };
        state.api_keys.insert(id, record);
        Ok(Json(answer))
    })
}

fn revoke_of(
    engine: &Engine,
    id: i64,
    of_organization: bool,
) -> ApiResult<Json<ApiKeyRevokeResponse>> {
    engine.change(|state| {
        let record = state
            .api_keys
            .get(&id)
            .filter(|record| is_of_organization(record) == of_organization)
            .cloned()
            .ok_or_else(|| ApiError::not_found("API key"))?;
        state.api_keys.remove(&id);
        let item = list_item(&record);
        Ok(Json(ApiKeyRevokeResponse {
            id,
            name: item.name,
            created_at: item.created_at,
            created_by: USER_ID,
            last_used_at: item.last_used_at,
            last_used_from_addr: item.last_used_from_addr,
            revoked: true,
            project_id: item.project_id,
        }))
    })
}

fn is_of_organization(record: &ApiKeyRecord) -> bool {
    matches!(record.owner, KeyOwner::Organization { .. })
}

fn list_item(record: &ApiKeyRecord) -> ApiKeyListItem {
    let address = record.last_used_at.map_or("", |_| ADDRESS);
    ApiKeyListItem {
        id: record.id,
        name: record.name.clone(),
        created_at: record.created_at,
        created_by: ApiKeyCreatorData {
            id: USER_ID,
            name: USER_NAME.to_owned(),
            image: String::new(),
        },
        last_used_at: record.last_used_at,
        last_used_from_addr: address.to_owned(),
        project_id: record.owner.project().cloned(),
    }
}
