//! Before a deploy.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use saga_core::admin::Admin;
use saga_core::store::Manifest;

use super::Said;
use crate::fault::{Exit, Fault};

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A JSON file with the manifests that are about to be shipped: an array, or one manifest.
    manifests: PathBuf,
}

impl Check {
    /// Reads the file; also called before connecting, so that a mistyped name is told first.
    pub(super) fn read(&self) -> Result<Vec<Manifest>, Fault> {
        let shown = self.manifests.display();
        let text = std::fs::read_to_string(&self.manifests);
        let text = text.map_err(|error| Fault::usage(format!("{shown} cannot be read: {error}")))?;
        let many = serde_json::from_str::<Vec<Manifest>>(&text);
        let read = many.or_else(|error| serde_json::from_str(&text).map(|one| vec![one]).map_err(|_| error));
        let read = read.map_err(|error| {
            Fault::usage(format!("{shown} holds no manifests ({error}); write it from `Worker::manifests`"))
        })?;
        for manifest in &read {
            if manifest.plan.fingerprint() != manifest.fingerprint {
                let (name, version) = (&manifest.plan.name, manifest.plan.version);
                let message = format!(
                    "{shown}: the fingerprint of {name} version {version} is not that of its plan: the file was \
                     edited, or written by another version of saga-core"
                );
                return Err(Fault::usage(message));
            }
        }
        Ok(read)
    }

    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let report = admin.check(&self.read()?).await?;
        let exit = if report.ok { Exit::Yes } else { Exit::No };
        let said = Said::either(json, &report, || {
            let mut text = String::new();
            for finding in &report.findings {
                let mark = if finding.trouble.is_some() { "NO " } else { "ok " };
                let _ = writeln!(text, "{mark} {finding}");
                for difference in &finding.differences {
                    let _ = writeln!(text, "      {difference}");
                }
                if let Some(trouble) = finding.trouble {
                    let _ = writeln!(text, "      {}", trouble.advice());
                }
            }
            text
        });
        Ok(said.exit(exit))
    }
}
