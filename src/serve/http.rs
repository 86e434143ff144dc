//! The service's three answers over HTTP: `/metrics`, `/healthz`, `/readyz`. It reads and never writes, names no table,
//! file or key, and listens on this host only unless the policy says otherwise.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Shared, metrics};
use crate::{error::Result, jobs::standing, status::Standing};

/// A loop that did not go round for so long stands still.
const STILL_SECONDS: i64 = 60;

/// Answers until it is told to stop.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let router = Router::new()
        .route("/", get(async || "lifeboat: see /metrics, /healthz and /readyz\n"))
        .route("/metrics", get(tell_metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .with_state(shared);
    // An error here is one of a connection's, and that one is gone.
    let _ = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
}

/// Returns how the stack stands. `SQLite` waits for others that write, so it is asked on a thread that may wait.
async fn standing(shared: Arc<Shared>) -> Result<Standing, Response> {
    let work = move || standing::gather(&shared.stack(), &shared.ledger, shared.ground.clock.now());
    let gathered = tokio::task::spawn_blocking(work).await;
    let why = match gathered {
        Ok(Ok(standing)) => return Ok(standing),
        Ok(Err(failure)) => failure.one_line(),
        Err(_) => "the program made a mistake".to_owned(),
    };
    Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response())
}

async fn tell_metrics(State(shared): State<Arc<Shared>>) -> Response {
    match standing(shared).await {
        Ok(standing) => {
            ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&standing)).into_response()
        }
        Err(response) => response,
    }
}

/// Whether the loop goes round. A failed backup is no reason to start the service anew, so it says nothing of those.
async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let age_seconds = shared.ground.clock.now().timestamp() - shared.looked.load(Ordering::Relaxed);
    let code = if age_seconds <= STILL_SECONDS { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "alive": code == StatusCode::OK, "age_seconds": age_seconds }))).into_response()
}

/// Whether the service looked at its schedule once and can read its catalog; tells the verdict.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let has_looked = shared.looked.load(Ordering::Relaxed) != 0;
    match standing(shared).await {
        Ok(standing) if has_looked => {
            let facts = json!({ "ready": true, "stack": standing.stack, "verdict": standing.verdict });
            Json(facts).into_response()
        }
        Ok(_) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false }))).into_response(),
        Err(response) => response,
    }
}
