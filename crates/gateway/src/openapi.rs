//! The OpenAPI document: what the handlers say of themselves, completed by what holds for all of them.
//!
//! Handlers describe what they take and what success looks like. Who may call and which refusals there are
//! comes from the tables that the gateway itself goes by, [`access::ROWS`] and [`Kind`], so that neither is
//! written twice.

use std::collections::BTreeMap;

use http::StatusCode;
use utoipa::PartialSchema;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ArrayBuilder, ComponentsBuilder, ContentBuilder, Header, InfoBuilder, LicenseBuilder, ObjectBuilder,
    OpenApi, PathItem, Ref, RefOr, ResponseBuilder, Type,
};

use crate::access::{self, Access, ROWS, Row};
use crate::examples;
use crate::json::Missing;
use crate::problem::{CONTENT_TYPE, Kind};
use crate::routes;

const TOKEN: &str = "token";
const PROBLEM: &str = "Problem";

/// The whole document.
pub(crate) fn document() -> OpenApi {
    let mut document = routes::documented().into_openapi();
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    document.info = InfoBuilder::new()
        .title("Lattice")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("A replicated key-value state store that heals itself."))
        .license(Some(license))
        .build();
    let schemas = document.components.take().unwrap_or_default().schemas;
    let bearer =
        Http::builder().scheme(HttpAuthScheme::Bearer).description(Some("One of gateway.token_file")).build();
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .schema(PROBLEM, problem_schema())
        .security_scheme(TOKEN, SecurityScheme::Http(bearer))
        .build();
    document.components = Some(components);
    document.paths.paths = std::mem::take(&mut document.paths.paths)
        .into_iter()
        // As it is for clients; the star is the router's own.
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .map(|(path, mut item)| {
            for row in ROWS.iter().filter(|row| row.route == path) {
                if let Some(operation) = operation(&mut item, row.method) {
                    complete(operation, row);
                }
            }
            (path, item)
        })
        .collect();
    document
}

fn operation<'a>(item: &'a mut PathItem, method: &str) -> Option<&'a mut Operation> {
    let slot = match method {
        "GET" => &mut item.get,
        "PUT" => &mut item.put,
        "POST" => &mut item.post,
        "DELETE" => &mut item.delete,
        _ => return None,
    };
    slot.as_mut()
}

/// Adds who may call, and how it is refused.
fn complete(operation: &mut Operation, row: &Row) {
    // A summary is plain text; it is taken from documentation, which has code in backticks.
    operation.summary = operation.summary.take().map(|summary| summary.replace('`', ""));
    match row.access {
        Access::Open => operation.security = Some(Vec::new()),
        Access::Needs(role) => {
            operation.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
            let needs = format!("Needs a token with the role `{}`, where the node has tokens.", role.name());
            let text = operation.description.take().unwrap_or_default();
            operation.description = Some(format!("{text}\n\n{needs}").trim().to_owned());
        }
    }
    let mut statuses: BTreeMap<StatusCode, Vec<Kind>> = BTreeMap::new();
    for kind in refusals(row) {
        statuses.entry(kind.status()).or_default().push(kind);
    }
    let parameters = query_parameters(operation);
    let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
    for (status, kinds) in statuses {
        let types: Vec<String> = kinds.iter().map(|kind| format!("`{}`", kind.uri())).collect();
        let examples = kinds.iter().map(|kind| {
            let example = examples::of(*kind, row, &parameters).document();
            (kind.name(), ExampleBuilder::new().summary(kind.title()).value(Some(example)))
        });
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(PROBLEM)))
            .examples_from_iter(examples)
            .build();
        let mut response =
            ResponseBuilder::new().description(types.join(", ")).content(CONTENT_TYPE, content);
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            let mut header = Header::default();
            header.description = Some("Seconds after which to ask again".to_owned());
            response = response.header("Retry-After", header);
        }
        operation.responses.responses.insert(status.as_u16().to_string(), RefOr::T(response.build()));
    }
}

/// The names of what the operation takes after the `?`.
fn query_parameters(operation: &Operation) -> Vec<String> {
    let mut names = Vec::new();
    for parameter in operation.parameters.iter().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.parameter_in == ParameterIn::Query
        {
            names.push(parameter.name.clone());
        }
    }
    names
}

/// How a call of this route can be refused.
fn refusals(row: &Row) -> Vec<Kind> {
    use Kind::{
        BodyInvalid, Busy, ConditionFailed, Conflict, CrossOrigin, Damaged, DiskFull, Forbidden, Gone,
        HeaderInvalid, Internal, KeyInvalid, KeyNotFound, MediaType, NotFound, NotReady, NotSupported,
        ParameterInvalid, RateLimited, Recovering, RequestRefused, Timeout, TooLarge, Unauthorized,
        Unavailable,
    };
    // What any request may meet.
    let mut kinds = vec![HeaderInvalid, Busy, Internal, Timeout];
    if let Access::Needs(_) = row.access {
        kinds.extend([Unauthorized, Forbidden]);
    }
    if row.method != "GET" || matches!(row.access, Access::Needs(_)) {
        kinds.push(CrossOrigin);
    }
    if !access::is_probe(row.route) && row.route != access::EXCHANGE {
        kinds.push(RateLimited);
    }
    // What any sibling may answer, where one is asked.
    const SIBLING: &[Kind] = &[ParameterInvalid, RequestRefused, Unavailable, NotSupported];
    let own: &[&[Kind]] = match (row.method, row.route) {
        ("GET", "/" | "/healthz" | "/metrics" | "/openapi.json" | access::DOCS) => &[],
        ("GET", access::DOCS_FILE | access::DASHBOARD_FILE) => &[&[NotFound]],
        ("GET", "/readyz" | "/health") => &[&[NotReady]],
        ("GET", access::KV) => &[SIBLING, &[KeyInvalid, KeyNotFound, ConditionFailed, Damaged, Recovering]],
        ("PUT", access::KV) => &[
            SIBLING,
            &[KeyInvalid, BodyInvalid, MediaType, ConditionFailed, TooLarge, Damaged, Recovering, DiskFull],
        ],
        ("DELETE", access::KV) => &[SIBLING, &[KeyInvalid, ConditionFailed, Damaged, Recovering, DiskFull]],
        ("GET", "/v1/kv") => &[SIBLING, &[Damaged, Recovering]],
        ("POST", access::BATCH) => {
            &[SIBLING, &[BodyInvalid, KeyInvalid, MediaType, TooLarge, Recovering, DiskFull]]
        }
        ("GET", access::WATCHED) => &[SIBLING, &[Gone, Damaged, Recovering]],
        ("GET", access::PROOF) => &[SIBLING, &[KeyInvalid, Gone, Conflict, Damaged, Recovering]],
        ("GET", "/v1/backup") => &[SIBLING, &[Damaged, Recovering]],
        ("POST", access::RESTORE) => &[SIBLING, &[BodyInvalid, MediaType, DiskFull]],
        ("GET", "/api/lattice/state/full") => &[SIBLING, &[Conflict, Damaged, Recovering]],
        ("POST", access::TRUST) => &[SIBLING, &[BodyInvalid, MediaType, TooLarge, Conflict]],
        ("GET", access::TRUST_KEY) => &[SIBLING, &[KeyInvalid, NotFound]],
        ("POST" | "DELETE", access::TRUST_KEY) => &[SIBLING, &[KeyInvalid, NotFound, Conflict]],
        ("POST", access::SWITCH) => &[SIBLING, &[Conflict]],
        ("POST", access::RECONCILE) => &[SIBLING, &[NotFound, Conflict]],
        ("POST", access::EXCHANGE) => {
            &[SIBLING, &[BodyInvalid, MediaType, TooLarge, NotFound, Conflict, Recovering]]
        }
        _ => &[SIBLING],
    };
    kinds.extend(own.iter().copied().flatten());
    kinds
}

/// RFC 9457, with the types that there are, and the members that only some of them have.
fn problem_schema() -> ObjectBuilder {
    let text =
        |description: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(description));
    let types = Kind::ALL.iter().map(|kind| kind.uri());
    let missing = ArrayBuilder::new()
        .items(Missing::schema())
        .description(Some("Of `/problems/not-ready`: the services that the node lacks, and why"));
    ObjectBuilder::new()
        .description(Some(
            "A refusal (RFC 9457). Members that are not required are there where their description says so.",
        ))
        .property("type", text("What went wrong, in terms that stay").enum_values(Some(types)))
        .property("title", text("The type in words"))
        .property(
            "status",
            ObjectBuilder::new().schema_type(Type::Integer).description(Some("The HTTP status")),
        )
        .property("detail", text("What was wrong with this request, and what would be right"))
        .property("since", text("Of `/problems/gone`, for a watch: the id that it can begin anew with"))
        .property(
            "version",
            text("Of `/problems/condition-failed`, when the key was found: the version that it has"),
        )
        .property("missing", missing)
        .property(
            "success",
            ObjectBuilder::new()
                .schema_type(Type::Boolean)
                .description(Some("Of a wrong or failed change of path (`/api/lattice/sync/switch`): false")),
        )
        .property(
            "message",
            text("Of a wrong or failed change of path (`/api/lattice/sync/switch`): the same as `detail`"),
        )
        .required("type")
        .required("title")
        .required("status")
        .required("detail")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    const PAGE: &str = include_str!("../../../docs/http-api.md");

    fn written() -> Value {
        serde_json::from_str(&document().to_json().unwrap()).unwrap()
    }

    /// Method and path of every operation of the document.
    fn operations(document: &Value) -> BTreeSet<(String, String)> {
        let paths = document["paths"].as_object().unwrap().iter();
        paths
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone()))
            })
            .collect()
    }

    #[test]
    fn the_document_has_exactly_the_routes_that_there_are() {
        let document = written();
        assert_eq!(document["openapi"], "3.1.0");
        let rows = ROWS.iter().filter(|row| !access::is_rpc(row.route));
        let rows: BTreeSet<_> = rows.map(|row| (row.method.to_owned(), row.route.to_owned())).collect();
        assert_eq!(operations(&document), rows);
    }

    #[test]
    fn every_operation_says_who_may_call_what_success_is_and_how_it_is_refused() {
        let document = written();
        for row in ROWS.iter().filter(|row| !access::is_rpc(row.route)) {
            let operation = &document["paths"][row.route][row.method.to_lowercase()];
            let secured = operation["security"].as_array().is_some_and(|needs| !needs.is_empty());
            assert_eq!(secured, row.access != Access::Open, "{} {}", row.method, row.route);
            assert!(operation["summary"].is_string(), "{} {}", row.method, row.route);
            for status in [row.success, 503, 504] {
                let response = &operation["responses"][status.to_string()];
                assert!(response["description"].is_string(), "{status} of {} {}", row.method, row.route);
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{parameter} of {} {}", row.method, row.route);
            }
        }
    }

    /// The examples of every refusal of every operation, with their operation.
    fn examples(document: &Value) -> Vec<(String, Value)> {
        let mut examples = Vec::new();
        for row in ROWS.iter().filter(|row| !access::is_rpc(row.route)) {
            let place = format!("{} {}", row.method, row.route);
            let responses = &document["paths"][row.route][row.method.to_lowercase()]["responses"];
            for kind in refusals(row) {
                let response = &responses[kind.status().as_str()]["content"][CONTENT_TYPE];
                let example = response["examples"][kind.name()]["value"].clone();
                assert!(example.is_object(), "{kind:?} of {place} has no example");
                assert_eq!(example["type"], kind.uri(), "{place}");
                assert_eq!(example["title"], kind.title(), "{place}");
                assert_eq!(example["status"], kind.status().as_u16(), "{place}");
                examples.push((place.clone(), example));
            }
        }
        examples
    }

    #[test]
    fn every_refusal_has_an_example_of_its_own_kind_and_no_other() {
        let document = written();
        assert!(document["components"]["schemas"][PROBLEM]["examples"].is_null());
        let count = examples(&document).len();
        let written = document["paths"].to_string().matches("\"type\":\"/problems/").count();
        assert_eq!(written, count);
    }

    #[test]
    fn every_member_of_a_problem_is_in_the_schema_and_says_which_types_have_it() {
        let document = written();
        let schema = &document["components"]["schemas"][PROBLEM];
        let properties = schema["properties"].as_object().unwrap();
        let required: BTreeSet<&str> =
            schema["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let mut met = BTreeSet::new();
        for (place, example) in examples(&document) {
            for member in example.as_object().unwrap().keys() {
                met.insert(member.clone());
                let said = properties.get(member).and_then(|property| property["description"].as_str());
                let said = said.unwrap_or_else(|| panic!("{member} of {place} is not in the schema"));
                let named =
                    said.contains(example["type"].as_str().unwrap()) || place.contains(access::SWITCH);
                assert!(named || required.contains(&**member), "{member} of {place}: {said}");
            }
        }
        assert_eq!(met, properties.keys().cloned().collect(), "the schema has what no problem has");
        let line = PAGE.lines().skip_while(|line| !line.starts_with("`status`, `title`")).take(2);
        let line = line.collect::<String>();
        for member in met.iter().filter(|member| **member != "type") {
            assert!(line.contains(&format!("`{member}`")), "docs/http-api.md lacks {member}: {line}");
        }
        assert_eq!(properties["missing"]["items"]["properties"]["service"]["type"], "string");
    }

    #[test]
    fn no_summary_has_what_is_not_plain_text() {
        let document = written();
        for (method, path) in operations(&document) {
            let summary = document["paths"][&path][method.to_lowercase()]["summary"].as_str().unwrap();
            assert!(!summary.contains(['`', '*', '[', '\n']), "{method} {path}: {summary}");
        }
    }

    #[test]
    fn a_value_can_be_written_as_text_and_as_a_file() {
        let document = written();
        let content = &document["paths"][access::KV]["put"]["requestBody"]["content"];
        assert_eq!(content["text/plain"]["schema"]["type"], "string");
        assert_eq!(
            content["application/octet-stream"]["schema"],
            serde_json::json!({"$ref": "#/components/schemas/Binary"})
        );
    }

    #[test]
    fn what_does_not_end_says_so_and_how_to_read_it() {
        let document = written();
        for row in ROWS.iter().filter(|row| !access::is_rpc(row.route)) {
            let operation = &document["paths"][row.route][row.method.to_lowercase()];
            let streams = operation["responses"]["200"]["content"]["text/event-stream"].is_object();
            let said = operation["description"].as_str().unwrap_or_default();
            let told =
                said.contains("does not end") && said.contains("`curl -N ") && said.contains(row.route);
            assert_eq!(streams, told, "{} {}: {said}", row.method, row.route);
        }
    }

    #[test]
    fn every_type_of_problem_can_be_met_and_is_on_the_page() {
        // Who asks for a route or method that is not there, asks nothing that the document has.
        let mut met = BTreeSet::from([Kind::RouteNotFound.uri(), Kind::MethodNotAllowed.uri()]);
        met.extend(ROWS.iter().flat_map(refusals).map(Kind::uri));
        for kind in Kind::ALL {
            assert!(met.contains(kind.uri()), "{kind:?} is refused nowhere");
            let row = format!("| `{}` | {} |", kind.uri(), kind.status().as_u16());
            assert!(PAGE.contains(&row), "docs/http-api.md lacks {row}");
        }
        let listed = PAGE.matches("| `/problems/").count();
        assert_eq!(listed, Kind::ALL.len(), "docs/http-api.md lists a type that there is not, or one twice");
    }

    #[test]
    fn every_route_is_on_the_page() {
        for row in ROWS.iter().filter(|row| !access::is_rpc(row.route)) {
            // With or without parameters after it, or as one of several of its row.
            let named = PAGE.lines().filter(|line| line.starts_with("| `")).any(|line| {
                let cell = line.split(" | ").next().unwrap_or_default();
                let routes = cell.split([' ', '`', '?', ',']).any(|word| word == row.route);
                routes && (cell.contains(row.method) || row.method == "GET")
            });
            assert!(named, "docs/http-api.md lacks {} {}", row.method, row.route);
        }
    }
}
