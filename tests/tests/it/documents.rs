//! The documents and the code name the same things.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lattice_runtime::Config;
use lattice_runtime::config::Sources;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

#[test]
fn the_configuration_page_lists_exactly_the_keys_that_exist() {
    let page = read(&root().join("docs/configuration.md"));
    let documented: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| line.split('|').nth(1).into_iter().flat_map(|keys| keys.split(',')))
        .map(|key| key.trim().trim_matches('`').to_owned())
        .collect();

    let printed: toml::Table = Config::default().to_toml().parse().expect("valid TOML");
    for (section, keys) in &printed {
        for key in keys.as_table().expect("a section").keys() {
            let name = format!("{section}.{key}");
            assert!(documented.contains(&name), "{name} exists and is not documented");
        }
    }
    for name in documented {
        let sources = Sources { sets: vec![format!("{name}=\u{1}")], ..Sources::default() };
        if let Err(error) = Config::load(sources) {
            assert!(
                !error.to_string().contains("unknown"),
                "{name} is documented and does not exist: {error}"
            );
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut pages = vec![root().join("README.md")];
    for folder in ["docs", "docs/decisions"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    for page in pages {
        for target in read(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.contains("://") && !target.starts_with('#') {
                let named = target.split('#').next().unwrap_or_default();
                let file = page.parent().expect("a folder").join(named);
                assert!(file.exists(), "{} links to {target}, which is not there", page.display());
            }
        }
    }
}
