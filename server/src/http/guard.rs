//! What every request must pass before its route is looked at.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use fulmar_core::{Code, Problem};

use hyper::body::Body as _;
use tokio::time;

use super::{App, api::authorize, problem::Failure};
use crate::{
    budget::{Budgets, Reserved},
    limits,
};

pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // The body of a POST is taken before anything is answered. Were it left in the connection, an early answer would
    // be lost when the connection is reset for it.
    let (request, body, _reserved) = match take_body(request).await {
        Ok(taken) => taken,
        Err(problem) => return Failure(problem).into_response(),
    };
    if let Err(problem) = check(&app, &request) {
        return Failure(problem).into_response();
    }
    let (version, origin) = (request.version(), request.headers().get(header::ORIGIN).cloned());
    let polls = request.uri().path() == "/poll";
    let preflight = request.method() == Method::OPTIONS && origin.is_some();
    let mut response = if preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request.map(|()| body)).await
    };
    if let Some(origin) = origin {
        share_with(origin, response.headers_mut());
    }
    // What is answered is what it says it is, and pages of other origins get it by CORS or not at all.
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    if let Some(seconds) = app.hub.retry_after()
        && (polls || response.status() == StatusCode::SERVICE_UNAVAILABLE)
    {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if version != Version::HTTP_3
        && let Some(advertised) = app.directory.alternative()
    {
        response.headers_mut().insert(header::ALT_SVC, advertised);
    }
    response
}

/// Lets a page that passed the check read the answer, and no other. Fetch standard, section 3.2 (CORS).
fn share_with(origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    let allowed = HeaderValue::from_static("authorization, content-type, last-event-id");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}

/// Takes the body of a POST, and what it has of its connection's budget until it is answered.
async fn take_body(request: Request) -> Result<(axum::http::Request<()>, Body, Option<Reserved>), Problem> {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return Ok((axum::http::Request::from_parts(parts, ()), body, None));
    }
    let length = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
    if length.is_some_and(|length| length > limits::BODY_BYTES * 8) {
        return Err(too_long());
    }
    let budget = parts.extensions.get::<Budgets>();
    let taking = async {
        let reserved = match budget {
            Some(budget) => {
                let most = length.unwrap_or(limits::BODY_BYTES).min(limits::BODY_BYTES);
                Some(budget.bodies.reserve(most).await)
            }
            None => None,
        };
        to_bytes(body, limits::BODY_BYTES).await.map(|body| (body, reserved))
    };
    let taken = time::timeout(limits::HEADER_DEADLINE, taking).await;
    let (body, reserved) = taken.ok().and_then(Result::ok).ok_or_else(too_long)?;
    Ok((axum::http::Request::from_parts(parts, ()), Body::from(body), reserved))
}

fn too_long() -> Problem {
    let message = format!("the body came too slowly or has more than {} bytes", limits::BODY_BYTES);
    Problem::new(Code::MessageTooLarge, message)
}

fn check(app: &App, request: &axum::http::Request<()>) -> Result<(), Problem> {
    let headers = request.headers();
    // HTTP/2 has :authority, which hyper puts into the URI; where both are given they must agree, so the stricter of
    // both is checked.
    let authority = request.uri().authority().map(|it| it.as_str());
    let host = single(headers, &header::HOST)?.map(|host| std::str::from_utf8(host).unwrap_or_default());
    let origin = single(headers, &header::ORIGIN)?;
    if origin.is_none() && is_foreign(headers) {
        let message = "a page of another origin may not ask this; configure its origin and ask with CORS";
        return Err(Problem::new(Code::ForbiddenOrigin, message));
    }
    app.access.check(authority.or(host), origin)?;
    if authority.is_some() && host.is_some() {
        app.access.check(host, origin)?;
    }
    if request.method() == Method::POST && !is_json(headers) {
        return Err(Problem::new(Code::BadContentType, "send the body as Content-Type: application/json"));
    }
    if request.uri().path().starts_with("/api/") && request.method() != Method::OPTIONS {
        authorize(app, headers)?;
    }
    Ok(())
}

/// Whether a browser says that another site's page asks for this, without saying which one. Such a page could read nothing, but
/// hold sessions. Links from elsewhere are welcome. W3C Fetch Metadata, sections 2.2 and 2.4.
fn is_foreign(headers: &HeaderMap) -> bool {
    let is = |name, values: &[&str]| {
        headers.get(name).is_some_and(|value| values.iter().any(|it| value.as_bytes() == it.as_bytes()))
    };
    is("sec-fetch-site", &["cross-site", "same-site"]) && !is("sec-fetch-mode", &["navigate"])
}

fn single<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Result<Option<&'a [u8]>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Problem::new(Code::BadRequest, format!("{name} is given twice")));
    }
    Ok(first.map(|value| value.as_bytes()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.map(|value| value.split(';').next().unwrap_or_default().trim());
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
}
