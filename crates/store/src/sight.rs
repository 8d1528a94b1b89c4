//! Whether anybody is at work on an execution.

use std::io::Write;

use uuid::Uuid;

use crate::limits::PROBE_BYTES;
use crate::spool::{self, Taken};
use crate::types::Sight;
use crate::{Error, Store};

impl Store {
    /// Executions that have not ended and don't wait, oldest first.
    pub fn live(&self) -> Result<Vec<Uuid>, Error> {
        let waiting: std::collections::HashSet<Uuid> =
            self.waiting()?.into_iter().map(|(id, _)| id).collect();
        let mut live = self.shelf.index.not_ended()?;
        live.retain(|id| !waiting.contains(id));
        Ok(live)
    }

    /// Who holds the spool of an execution.
    pub fn sight(&self, id: Uuid) -> Result<Sight, Error> {
        Ok(match spool::try_take(&self.shelf.layout, id) {
            Ok(Taken::Gone) => Sight::NoSpool,
            Ok(Taken::Held) => Sight::Held,
            Ok(Taken::Locked(_)) => Sight::Free,
            // Of a run that another user has started: whoever may open it ends it.
            Err(Error::Permission { .. }) => Sight::Held,
            Err(error) => return Err(error),
        })
    }

    /// Whether the disk takes something, as far as a small file can tell.
    pub fn probe(&self) -> Result<(), Error> {
        let path = self.shelf.layout.spools.join(format!(".probe-{}.new", Uuid::now_v7().simple()));
        let failed = |error| Error::io("write", &path, error);
        let written = (|| {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
            file.write_all(&[0; PROBE_BYTES])?;
            file.sync_data()
        })();
        let _ = std::fs::remove_file(&path);
        written.map_err(failed)
    }

    /// Where the transcript of an execution grows while it runs.
    pub fn spool_path(&self, id: Uuid) -> std::path::PathBuf {
        self.shelf.layout.spool(id)
    }
}
