//! W3C trace context: how one trace spans services, processes and nodes.
//!
//! Inside a process the context is the current `tracing` span. Between services it travels as gRPC
//! metadata, which the channels and servers of [`crate::grpc`] write and read by themselves; between nodes
//! as a field of the signed envelope, which the services fill from here.

use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Set when nobody sees the spans of this process: it sends them nowhere, and its log does not name them.
static UNSEEN: AtomicBool = AtomicBool::new(false);

/// Says that nobody sees the spans of this process.
pub(crate) fn unseen() {
    UNSEEN.store(true, Ordering::Relaxed);
}

/// Whether a request with these headers needs a span: when somebody sees spans here, or whoever sent it traces it. A span
/// that nobody will see is a good part of what a read costs.
pub fn is_traced(headers: &HeaderMap) -> bool {
    !UNSEEN.load(Ordering::Relaxed) || headers.contains_key(TRACEPARENT)
}

/// The header and metadata key.
pub const TRACEPARENT: &str = "traceparent";
/// `00-<32>-<16>-<2>`; later versions may append, within reason.
const TRACEPARENT_BYTES_MAX: usize = 128;

/// The current span as `00-<trace id>-<span id>-<flags>`; `None` outside of any span.
pub fn current_traceparent() -> Option<String> {
    traceparent(&Span::current())
}

/// `span` as `00-<trace id>-<span id>-<flags>`; `None` when it is disabled.
pub fn traceparent(span: &Span) -> Option<String> {
    let context = span_context(span)?;
    let flags = context.trace_flags().to_u8();
    Some(format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
}

/// Makes `span` continue the trace of `traceparent`; anything that is not W3C trace context is ignored.
/// Call it before the span is entered for the first time.
pub fn set_parent(span: &Span, traceparent: &str) {
    if traceparent.len() > TRACEPARENT_BYTES_MAX {
        return;
    }
    let nowhere = opentelemetry::Context::new();
    let context = TraceContextPropagator::new().extract_with_context(&nowhere, &Carrier(traceparent));
    if context.span().span_context().is_valid() {
        // Fails without a telemetry layer (a test) or in a span already entered: then the trace starts here.
        let _ = span.set_parent(context);
    }
}

/// Headers of which only this one matters: every call of every service is asked.
struct Carrier<'a>(&'a str);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

/// The id of the trace that `span` belongs to, 32 hex; `None` when it is disabled.
pub fn trace_id(span: &Span) -> Option<String> {
    Some(span_context(span)?.trace_id().to_string())
}

fn span_context(span: &Span) -> Option<SpanContext> {
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn with_tracing(test: impl FnOnce()) {
        // No exporter: trace ids exist all the same.
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), test);
    }

    #[test]
    fn a_span_continues_the_trace_it_was_given() {
        with_tracing(|| {
            let span = tracing::info_span!("served");
            set_parent(&span, PARENT);
            let text = span.in_scope(current_traceparent).unwrap();
            assert!(text.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{text}");
            assert!(text.ends_with("-01") && !text.contains("b7ad6b7169203331"), "{text}");
            assert_eq!(trace_id(&span).unwrap(), "0af7651916cd43dd8448eb211c80319c");
        });
    }

    #[test]
    fn a_child_span_shares_the_trace() {
        with_tracing(|| {
            let parent = tracing::info_span!("parent");
            let child = parent.in_scope(|| tracing::info_span!("child"));
            assert_eq!(trace_id(&parent).unwrap(), trace_id(&child).unwrap());
            assert_ne!(traceparent(&parent), traceparent(&child));
        });
    }

    #[test]
    fn what_is_not_trace_context_is_ignored() {
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let long = "0".repeat(100_000);
        for bad in
            ["", "hello", "00-xyz-b7ad6b7169203331-01", zeros, "ff", "00---", long.as_str(), "00-é-é-é"]
        {
            with_tracing(|| {
                let span = tracing::info_span!("served");
                set_parent(&span, bad);
                assert!(trace_id(&span).is_some(), "a trace of its own after {bad:.40}");
            });
        }
    }

    #[test]
    fn without_telemetry_there_is_no_context() {
        assert_eq!(current_traceparent(), None);
        let span = tracing::info_span!("served");
        set_parent(&span, PARENT);
        assert_eq!(trace_id(&span), None);
    }
}
