//! Reads the machine's figures, and notices when one of them changes notably.

use std::time::Duration;

use serde_json::{Value, json};
use sysinfo::{Networks, System};

/// A value to be published.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) channel: &'static str,
    /// Empty for none.
    pub(super) key: String,
    pub(super) value: Value,
}

/// Reads figures, and remembers what the last ones were.
#[derive(Debug)]
pub(super) struct Sampler {
    system: System,
    networks: Networks,
    /// Bytes a second, smoothed over about a second: a sample is a tenth of one.
    network: (f64, f64),
    described: bool,
    cpu: Watch,
    memory: Watch,
    load: Watch,
}

impl Sampler {
    pub(super) fn new() -> Result<Self, sysinfo::Error> {
        Ok(Self {
            system: System::new()?,
            networks: Networks::new_with_refreshed_list()?,
            network: (0.0, 0.0),
            described: false,
            cpu: Watch::new("cpu", "CPU", 80.0),
            memory: Watch::new("memory", "memory", 90.0),
            load: Watch::new("load", "load per core", 100.0),
        })
    }

    /// The figures now, `since` after the last ones.
    pub(super) fn sample(&mut self, since: Duration) -> Vec<Figure> {
        let mut figures = Vec::with_capacity(16);
        let mut put =
            |channel, key: &str, value| figures.push(Figure { channel, key: key.to_owned(), value });

        self.system.refresh_cpu_usage();
        let cpu = f64::from(self.system.global_cpu_usage());
        put("host:cpu", "total", tenths(cpu));
        for (n, core) in self.system.cpus().iter().enumerate() {
            put("host:cpu", &n.to_string(), tenths(f64::from(core.usage())));
        }

        self.system.refresh_memory();
        let (used, total) = (self.system.used_memory(), self.system.total_memory());
        put("host:memory", "used", used.into());
        put("host:memory", "total", total.into());
        put("host:memory", "swap_used", self.system.used_swap().into());
        put("host:memory", "swap_total", self.system.total_swap().into());

        self.networks.refresh(true);
        let (received, sent) = self.networks.iter().fold((0u64, 0u64), |(received, sent), (_, it)| {
            (received + it.received(), sent + it.transmitted())
        });
        self.network.0 = smooth(self.network.0, received as f64 / since.as_secs_f64());
        self.network.1 = smooth(self.network.1, sent as f64 / since.as_secs_f64());
        put("host:network", "rx", (self.network.0 as u64).into());
        put("host:network", "tx", (self.network.1 as u64).into());

        let load = System::load_average().map_or([0.0; 3], |load| [load.one, load.five, load.fifteen]);
        for (key, load) in ["1", "5", "15"].into_iter().zip(load) {
            put("host:load", key, hundredths(load));
        }

        let cores = self.system.cpus().len().max(1);
        if !self.described {
            self.described = true;
            let name = self.system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
            put(
                "host:info",
                "",
                json!({
                    "hostname": System::host_name().ok(),
                    "os": System::long_os_version().ok(),
                    "kernel": System::kernel_version().ok(),
                    "cpu": name,
                    "cores": cores,
                }),
            );
            put(
                "event:host",
                "",
                json!({"level": "info", "what": "server", "message": "Fulmar has started"}),
            );
        }
        let share = if total == 0 { 0.0 } else { used as f64 / total as f64 * 100.0 };
        let events = [
            self.cpu.observe(cpu),
            self.memory.observe(share),
            self.load.observe(load[0] / cores as f64 * 100.0),
        ];
        for event in events.into_iter().flatten() {
            put("event:host", "", event);
        }
        figures
    }
}

/// Notices when a share in per cent has been above its threshold for a while, and when it is well below it again.
#[derive(Debug)]
struct Watch {
    what: &'static str,
    name: &'static str,
    threshold: f64,
    smoothed: f64,
    above: bool,
}

impl Watch {
    fn new(what: &'static str, name: &'static str, threshold: f64) -> Self {
        Self { what, name, threshold, smoothed: 0.0, above: false }
    }

    fn observe(&mut self, percent: f64) -> Option<Value> {
        self.smoothed = smooth(self.smoothed, percent);
        let (what, name, threshold) = (self.what, self.name, self.threshold);
        let shown = self.smoothed.round();
        if !self.above && self.smoothed >= threshold {
            self.above = true;
            let message = format!("{name} above {threshold} %: {shown} %");
            return Some(json!({"level": "warn", "what": what, "message": message}));
        }
        if self.above && self.smoothed < threshold * 0.75 {
            self.above = false;
            let message = format!("{name} back to {shown} %");
            return Some(json!({"level": "info", "what": what, "message": message}));
        }
        None
    }
}

fn smooth(before: f64, now: f64) -> f64 {
    before + (now - before) * 0.15
}

fn tenths(value: f64) -> Value {
    ((value * 10.0).round() / 10.0).into()
}

fn hundredths(value: f64) -> Value {
    ((value * 100.0).round() / 100.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_speaks_once_on_the_way_up_and_once_on_the_way_down() {
        let mut watch = Watch::new("cpu", "CPU", 80.0);
        let mut said = Vec::new();
        for percent in [100.0; 40].into_iter().chain([70.0; 40]).chain([5.0; 40]) {
            said.extend(watch.observe(percent).map(|event| event["level"].clone()));
        }
        assert_eq!(said, ["warn", "info"]);
    }

    #[test]
    fn a_sample_has_every_figure() {
        let figures = Sampler::new().expect("this machine has figures").sample(Duration::from_millis(100));
        for (channel, key) in [
            ("host:cpu", "total"),
            ("host:memory", "used"),
            ("host:network", "rx"),
            ("host:load", "15"),
            ("host:info", ""),
        ] {
            assert!(figures.iter().any(|it| it.channel == channel && it.key == key), "{channel} {key}");
        }
    }
}
