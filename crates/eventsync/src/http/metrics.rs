//! What an operator wants to see in numbers, as Prometheus reads it.

use std::{fmt::Write, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use nodestorage::{CacheStats, Storage, StorageError};

use super::{caller::principal_of, output};
use crate::{
    access::{Authorizer, Right},
    service::{RefusedBy, SyncService},
};

/// What an application adds to the numbers of its service.
type More = Arc<dyn Fn(&mut MetricsPage) + Send + Sync>;

/// `/metrics`: the numbers of a service, and those that the application adds to the page. Where there is an authorizer,
/// they are for those who have the right to administer all documents.
pub fn metrics(
    service: SyncService,
    authorizer: Option<Arc<dyn Authorizer>>,
    more: impl Fn(&mut MetricsPage) + Send + Sync + 'static,
) -> Router {
    Router::new().route("/metrics", get(show)).with_state(Numbers {
        service,
        authorizer,
        more: Arc::new(more),
    })
}

#[derive(Clone)]
struct Numbers {
    service: SyncService,
    authorizer: Option<Arc<dyn Authorizer>>,
    more: More,
}

async fn show(State(numbers): State<Numbers>, headers: HeaderMap) -> Response {
    let Numbers { service, authorizer, more } = numbers;
    let principal = principal_of(authorizer.as_deref(), &headers).await;
    if let Err(problem) = principal.and_then(|principal| principal.require(Right::Admin, None)) {
        return output::problem(&problem);
    }
    match of_service(&service).await {
        Ok(mut page) => {
            more(&mut page);
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.text).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn of_service(service: &SyncService) -> Result<MetricsPage, StorageError> {
    let mut page = MetricsPage::default();
    page.of("weft_position", "gauge", "The position of the last change of the store.");
    page.add(service.storage().position().await?);
    page.of("weft_connections", "gauge", "WebSocket and Server-Sent Events connections that are open.");
    page.add(service.connections().len() as u64);
    page.of("weft_refused_total", "counter", "Requests, messages and connections refused, by the limit.");
    let refused = RefusedBy::ALL.map(|(by, name)| (name, service.refusals().of(by)));
    page.each("reason", &refused);
    page.of("weft_ready", "gauge", "1 while new clients are welcome.");
    page.add(service.ready().is_ok().into());
    Ok(page)
}

/// A page of metrics in the text format of Prometheus: what each is, then its values.
#[derive(Debug, Default)]
pub struct MetricsPage {
    text: String,
    name: &'static str,
}

impl MetricsPage {
    /// Begins a metric: its name, `counter` or `gauge`, and what it tells, in one line.
    pub fn of(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Its value, if it is one.
    pub fn add(&mut self, value: u64) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }

    /// Its values, each under another value of one label.
    pub fn each(&mut self, label: &str, values: &[(&str, u64)]) {
        for (of, value) in values {
            let _ = writeln!(self.text, "{}{{{label}=\"{of}\"}} {value}", self.name);
        }
    }

    /// How well a cache in front of the storage does, and whether it is asked at all.
    pub fn cache(&mut self, stats: &CacheStats, is_trusted: bool) {
        self.of(
            "weft_cache_reads_total",
            "counter",
            "Reads of documents, by what the cache had to do with them.",
        );
        self.each(
            "result",
            &[
                ("hit", stats.hits),
                ("miss", stats.misses),
                ("shared", stats.shared),
                ("bypassed", stats.bypassed),
            ],
        );
        self.of(
            "weft_cache_hit_ratio",
            "gauge",
            "The share of reads that made no trip to the store, 0 to 1.",
        );
        let _ = writeln!(self.text, "{} {}", self.name, stats.hit_rate());
        self.of(
            "weft_cache_fills_total",
            "counter",
            "Entries kept by the cache, or refused as somebody wrote.",
        );
        self.each("result", &[("kept", stats.fills), ("refused", stats.fills_refused)]);
        self.of("weft_cache_dropped_total", "counter", "Entries that were not served, by what was wrong.");
        self.each("reason", &[("stale", stats.stale), ("poisoned", stats.poisoned)]);
        self.of("weft_cache_invalidated_total", "counter", "Changes by others that the feed told of.");
        self.add(stats.invalidated);
        self.of("weft_cache_errors_total", "counter", "How often the cache could not be asked.");
        self.add(stats.errors);
        self.of("weft_cache_trusted", "gauge", "1 while the cache is asked, 0 while it is out of step.");
        self.add(is_trusted.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = MetricsPage::default();
        page.cache(&CacheStats { hits: 3, misses: 1, ..CacheStats::default() }, true);
        for line in [
            "# TYPE weft_cache_reads_total counter",
            "weft_cache_reads_total{result=\"hit\"} 3",
            "weft_cache_hit_ratio 0.75",
            "weft_cache_trusted 1",
        ] {
            assert!(page.text.lines().any(|other| other == line), "{line:?} is not in {}", page.text);
        }
    }
}
