//! Refuses query parameters that an operation does not have, just as unknown fields of a body are refused.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use http::Method;
use poem::{PathPattern, Request};
use serde_json::Value;

use crate::web::problem::{FieldError, Problem};

/// The most unknown names that are reported, and the most characters of each.
const MAX_NAMES: usize = 10;
const MAX_NAME_LENGTH: usize = 100;

/// The query parameters of every operation.
#[derive(Clone)]
pub(crate) struct QueryParameters(Arc<HashMap<(Method, String), BTreeSet<String>>>);

impl QueryParameters {
    /// Reads the query parameters from the specification.
    pub(crate) fn of(document: &Value) -> Self {
        let mut operations = HashMap::new();
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            let shape = shape(path);
            for (method, operation) in methods.as_object().into_iter().flatten() {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let names = parameters
                    .filter(|parameter| parameter["in"] == "query")
                    .filter_map(|parameter| parameter["name"].as_str().map(str::to_owned));
                let method = method.to_uppercase().parse().expect("the specification names methods");
                operations.insert((method, shape.clone()), names.collect());
            }
        }
        Self(Arc::new(operations))
    }

    /// Refuses a request with query parameters that its operation does not have.
    ///
    /// # Errors
    /// 422 with their names.
    pub(crate) fn check(&self, request: &Request) -> Result<(), Problem> {
        let Some(query) = request.uri().query() else { return Ok(()) };
        let Some(PathPattern(pattern)) = request.data::<PathPattern>() else { return Ok(()) };
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let Some(known) = self.0.get(&(method.clone(), shape(pattern))) else { return Ok(()) };
        let unknown = |name: String| {
            let message = match known.len() {
                0 => "is not a parameter of this operation, which has none; remove it".to_owned(),
                _ => format!("is not a parameter of this operation; its parameters are: {}", join(known)),
            };
            FieldError { field: name.chars().take(MAX_NAME_LENGTH).collect(), message }
        };
        let names: BTreeSet<String> = url::form_urlencoded::parse(query.as_bytes())
            .map(|(name, _)| name.into_owned())
            .filter(|name| !known.contains(name))
            .collect();
        match names.is_empty() {
            true => Ok(()),
            false => Err(Problem::invalid(names.into_iter().take(MAX_NAMES).map(unknown).collect())),
        }
    }
}

/// Returns a path without the names of its parameters, because the router uses names of its own.
fn shape(path: &str) -> String {
    let part = |part| if str::starts_with(part, ['{', ':']) { "*" } else { part };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn join(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
