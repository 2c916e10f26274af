//! What every request must pass before its route is looked at.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use fulmar_core::{Code, Problem};

use super::{App, problem::Failure};

pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match check(&app, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => Failure(problem).into_response(),
    }
}

fn check(app: &App, request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    // HTTP/2 has :authority, which hyper puts into the URI; where both are given they must agree, so the stricter of
    // both is checked.
    let authority = request.uri().authority().map(|it| it.as_str());
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    let origin = single(headers, &header::ORIGIN)?;
    app.access.check(authority.or(host), origin)?;
    if authority.is_some() && host.is_some() {
        app.access.check(host, origin)?;
    }
    if request.method() == Method::POST && !is_json(headers) {
        return Err(Problem::new(Code::BadContentType, "send the body as Content-Type: application/json"));
    }
    Ok(())
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
