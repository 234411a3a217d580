//! Who may see what. [`decide`] is the one function that turns what an identity asks for into what
//! it gets. Lists, devices, snapshots, publications, alerts, statistics and what was missed are all
//! selected by the filter that it returns.
//!
//! Handlers and sessions have no hub. They have a [`Gate`], which a [`Door`] makes of an identity,
//! and each question through a gate is decided on first.

mod door;
mod gate;
pub(crate) mod scope;
#[cfg(test)]
mod tests;

use iot_auth::{Identity, Names, Scope};

use crate::channel::Filter;
pub(crate) use door::Door;
pub(crate) use gate::{Gate, Unanswered};

/// The identity may not see what it named. Says nothing about what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("permission denied: this is outside of what the identity may see")]
pub(crate) struct Denied;

/// What an identity gets when it asks for `filter`: the part of it within its scope. Every role
/// may read.
///
/// # Errors
/// The filter names a tenant, project or building that the identity may not see. Whether there is
/// one of that name makes no difference: only the identity is compared.
pub(crate) fn decide(identity: &Identity, filter: Filter) -> Result<Filter, Denied> {
    let scope = &identity.scope;
    if **scope == Scope::ALL {
        return Ok(filter);
    }
    let names = |names: &Names, asked: Option<&str>| asked.is_none_or(|name| names.contains(name));
    let may_see = names(&scope.tenants, filter.tenant.as_deref())
        && names(&scope.projects, filter.project.as_deref())
        && filter
            .building
            .as_deref()
            .is_none_or(|building| scope::has_building(scope, building));
    if !may_see {
        return Err(Denied);
    }
    Ok(filter.within(scope))
}
