//! Installs logs and traces for the process.
//!
//! A tracer is installed whether or not anybody collects: trace ids are part of what a node reports (a heal
//! names its trace), not a feature of the exporter. Calls alone have a span only when somebody
//! sees it ([`trace::is_traced`]). With `telemetry.otlp_endpoint` spans go there in the
//! background, through a bounded queue that drops what it cannot hold; a collector that is gone slows
//! nothing and is no error of the node. Other `OTEL_*` variables (queue, sampler, attributes) are the SDK's.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::LogFormat;
use crate::log::Format;
use crate::{Clock, Config, trace};

/// Shown unless `RUST_LOG` says otherwise: what changed here, and of libraries what went wrong.
const FILTER: &str = "info,h2=warn,hickory_proto=warn,hickory_resolver=warn,hyper=warn,hyper_util=warn,\
    libp2p=warn,libp2p_gossipsub=error,libp2p_swarm=warn,multistream_select=warn,netlink_proto=error,\
    opentelemetry=warn,opentelemetry-otlp=warn,opentelemetry_sdk=warn,quinn=warn,quinn_proto=warn,\
    reqwest=warn,rustls=warn,sled=warn,tonic=warn,tower=warn,yamux=warn";

/// Libraries whose spans are no part of a node's story; the exporter's own calls would even feed on
/// themselves.
const UNTRACED: &[&str] = &[
    "h2",
    "hyper",
    "libp2p",
    "multistream",
    "opentelemetry",
    "quinn",
    "reqwest",
    "rustls",
    "sled",
    "tonic",
    "tower",
];

/// How long the last spans get to reach the collector.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// One export, so that a collector that hangs does not hold the queue.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// The installed telemetry; shut it down at the end, or the last spans are lost.
#[derive(Debug)]
pub struct Telemetry {
    provider: SdkTracerProvider,
}

/// Why telemetry could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG is {value:?}: {source}")]
    Filter {
        /// The variable's value.
        value: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The endpoint cannot be used.
    #[error("telemetry.otlp_endpoint is {endpoint:?}: {source}")]
    Endpoint {
        /// The endpoint as configured.
        endpoint: String,
        /// What is wrong with it.
        source: ExporterBuildError,
    },
    /// Something else was installed before.
    #[error("install telemetry: {0}")]
    Installed(#[from] TryInitError),
}

/// Installs logs and traces for this process. `service` is the binary's name (`state-store`, `lattice`);
/// traces call it `lattice-<service>` unless `OTEL_SERVICE_NAME` says otherwise. Once a process, inside the
/// runtime.
pub fn init(config: &Config, service: &'static str) -> Result<Telemetry, Error> {
    install(config, service, FILTER)
}

/// Like [`init`] for a program whose output is for people: nothing is logged unless `RUST_LOG` asks for it.
///
/// # Errors
/// As for [`init`].
pub fn init_silent(config: &Config, service: &'static str) -> Result<Telemetry, Error> {
    install(config, service, "off")
}

fn install(config: &Config, service: &'static str, unless_asked: &str) -> Result<Telemetry, Error> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(value) if !value.is_empty() => {
            EnvFilter::try_new(&value).map_err(|source| Error::Filter { value, source })?
        }
        Ok(_) | Err(_) => EnvFilter::new(unless_asked),
    };
    let provider = provider(config, service)?;

    let clock = Clock::system();
    let format = Format::new(config.telemetry.log_format, service, move || clock.wall_ms());
    // Lines are plain everywhere: `with_ansi` would also let a terminal escape in. They say nothing of spans, whose
    // fields would else be formatted for every call, and thrown away.
    let log = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .fmt_fields(debug_fn(|_, _, _| Ok(())))
        .event_format(format)
        .with_filter(filter);
    let traces = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("lattice"))
        .with_location(false)
        .with_threads(false)
        // Two readings of the clock whenever a task is polled, for how long it was not.
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_traced).with_max_level_hint(LevelFilter::INFO));
    tracing_subscriber::registry().with(log).with(traces).try_init()?;
    opentelemetry::global::set_tracer_provider(provider.clone());
    // Lines of JSON name their trace.
    if config.telemetry.otlp_endpoint.is_none() && config.telemetry.log_format == LogFormat::Text {
        trace::unseen();
    }
    Ok(Telemetry { provider })
}

fn is_traced(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO && !UNTRACED.iter().any(|library| metadata.target().starts_with(library))
}

fn provider(config: &Config, service: &str) -> Result<SdkTracerProvider, Error> {
    let mut builder = SdkTracerProvider::builder().with_resource(resource(&config.node.name, service));
    if let Some(endpoint) = &config.telemetry.otlp_endpoint {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|source| Error::Endpoint { endpoint: endpoint.clone(), source })?;
        builder = builder.with_batch_exporter(exporter);
    }
    Ok(builder.build())
}

/// Who sends the spans; what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say holds.
fn resource(node: &str, service: &str) -> Resource {
    const NAME: &str = "service.name";
    const INSTANCE: &str = "service.instance.id";
    let given = Resource::builder().build();
    let given = |name: &'static str| given.get(&name.into()).map(|value| value.to_string());

    let mut resource = Resource::builder();
    if given(NAME).is_none_or(|name| name.starts_with("unknown_service")) {
        let name = service.strip_prefix("lattice-").unwrap_or(service);
        let name = if name == "lattice" { name.to_owned() } else { format!("lattice-{name}") };
        resource = resource.with_attribute(KeyValue::new(NAME, name));
    }
    if given(INSTANCE).is_none() {
        resource = resource.with_attribute(KeyValue::new(INSTANCE, node.to_owned()));
    }
    resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build()
}

impl Telemetry {
    /// Sends the last spans, within a few seconds, and ends.
    pub async fn shutdown(self) {
        // The SDK waits by blocking: from a runtime thread it could wait for itself.
        let flushed = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(FLUSH_MAX));
        match flushed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans were not sent"),
            Err(error) => tracing::warn!(%error, "the tracer did not shut down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_valid() {
        EnvFilter::try_new(FILTER).unwrap();
    }

    #[test]
    fn resources_name_service_and_node() {
        let named = |service| {
            let resource = resource("node-1", service);
            let get = |name: &'static str| resource.get(&name.into()).unwrap().to_string();
            (get("service.name"), get("service.instance.id"))
        };
        assert_eq!(named("gateway"), ("lattice-gateway".into(), "node-1".into()));
        assert_eq!(named("lattice"), ("lattice".into(), "node-1".into()));
    }

    #[tokio::test]
    async fn a_collector_that_is_gone_does_not_hold_up_the_end() {
        let mut config = Config::default();
        // Nobody listens on the discard port here.
        config.telemetry.otlp_endpoint = Some("http://127.0.0.1:9".into());
        let telemetry = init(&config, "gateway").unwrap();
        let span = tracing::info_span!("work");
        assert_eq!(crate::trace::trace_id(&span).unwrap().len(), 32);
        drop(span);
        tokio::time::timeout(Duration::from_secs(60), telemetry.shutdown()).await.unwrap();
    }
}
