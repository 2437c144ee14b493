//! Path and query parameters. Each type defines its schema and how it is parsed; errors name the parameter.

use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaParamIn, MetaSchema, MetaSchemaRef};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::web::problem::Problem;
use crate::web::value_error::ValueError;

/// A type that the text of a parameter is parsed into.
pub(crate) trait Parameter: Sized + Send + Sync {
    /// For path parameters: the error code if there is no such resource, and what the resource is called.
    const THING: (&'static str, &'static str) = ("route_not_found", "route");

    /// Returns its schema, with an example.
    fn schema() -> MetaSchema;

    /// Returns true for a text that means the same as no parameter.
    fn is_absent(_: &str) -> bool {
        false
    }

    /// Parses the text of a parameter.
    ///
    /// # Errors
    /// What the text must be.
    fn parse(text: &str) -> Result<Self, ValueError>;
}

/// A path parameter. If it cannot be parsed, no such resource exists: 404. (poem-openapi recognizes path parameters
/// by the name of this type.)
pub(crate) struct Path<T>(pub(crate) T);

/// An optional query parameter. It is refused if it is given twice.
pub(crate) struct InQuery<T>(pub(crate) Option<T>);

/// A query parameter that may be repeated and means "any of". `None` if it is absent.
pub(crate) struct AnyOf<T>(pub(crate) Option<Vec<T>>);

/// The most values of a repeated parameter.
const MAX_VALUES: usize = 100;

impl<'a, T: Parameter> ApiExtractor<'a> for Path<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = true;
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Path)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(T::schema())))
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let text = request.raw_path_param(options.name).unwrap_or_default();
        let (code, what) = T::THING;
        Ok(Self(T::parse(text).map_err(|_| Problem::not_found(code, what))?))
    }
}

impl<'a, T: Parameter> ApiExtractor<'a> for InQuery<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(T::schema())))
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let mut values = parse_all(request, options.name)?;
        if values.len() > 1 {
            return Err(Problem::invalid_field(options.name, "must not be given more than once").into());
        }
        Ok(Self(values.pop()))
    }
}

impl<'a, T: Parameter> ApiExtractor<'a> for AnyOf<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        let item = MetaSchemaRef::Inline(Box::new(T::schema()));
        let list = MetaSchema {
            items: Some(Box::new(item)),
            max_items: Some(MAX_VALUES),
            ..MetaSchema::new("array")
        };
        Some(MetaSchemaRef::Inline(Box::new(list)))
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let values: Vec<T> = parse_all(request, options.name)?;
        if values.len() > MAX_VALUES {
            let message = format!("must not be given more than {MAX_VALUES} times");
            return Err(Problem::invalid_field(options.name, message).into());
        }
        Ok(Self(Some(values).filter(|values| !values.is_empty())))
    }
}

fn parse_all<T: Parameter>(request: &Request, name: &str) -> Result<Vec<T>, Problem> {
    let query = request.uri().query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(key, value)| key == name && !T::is_absent(value))
        .map(|(_, value)| T::parse(&value).map_err(|error| Problem::invalid_field(name, error.to_string())))
        .collect()
}
