//! The flags that every binary takes to find its configuration.

use std::path::PathBuf;

use super::{Config, Error, Sources};

/// `--config`, `--set`, `--print-config`; flatten it into a command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// The node's TOML file [default: lattice.toml in the working directory when it exists]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Override one key, like --set store.epoch_ms=500 (repeatable)
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", global = true)]
    pub set: Vec<String>,
    /// Print the effective configuration as TOML and exit
    #[arg(long, global = true)]
    pub print_config: bool,
}

impl ConfigArgs {
    /// Reads the file and the environment, applies the flags.
    pub fn load(&self) -> Result<Config, Error> {
        Config::load(Sources::from_process(self.config.as_deref(), &self.set)?)
    }
}
