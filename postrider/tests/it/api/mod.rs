//! Applications and what belongs to them: keys, endpoints, secrets, limits and the audit log.

mod api_keys;
mod applications;
mod audit_log;
mod endpoints;
mod publish_limits;
mod secrets;
mod tenant_isolation;
