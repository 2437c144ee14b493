//! What all operations share: bodies, parameters, pages, responses and errors.

mod accept_problem;
pub(crate) mod admission;
pub(crate) mod body;
pub(crate) mod catalogue;
pub(crate) mod check;
pub(crate) mod idempotency_key;
pub(crate) mod json_types;
pub(crate) mod middleware;
pub(crate) mod page;
pub(crate) mod parameter;
pub(crate) mod parameter_values;
pub(crate) mod problem;
pub(crate) mod query;
pub(crate) mod refused;
pub(crate) mod success;
pub(crate) mod value_error;
