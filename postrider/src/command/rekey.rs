//! `postrider rekey` encrypts all secrets again with the first master key.

use std::time::Duration;

use anyhow::Context as _;
use postrider_runtime::config::{Reader, Source, settings};
use postrider_secrets::keyring::{self, Keyring};
use postrider_secrets::rekey;
use postrider_store::{DatabaseConfig, Store, StoreError, migrate};

use super::print;

/// Maximum rows per step.
const STEP: i64 = 500;

/// How often to retry a step whose rows are locked.
const TRIES: u32 = 20;

/// Pause before such a retry.
const PAUSE: Duration = Duration::from_millis(100);

/// Configuration of `rekey`.
struct RekeyConfig {
    database: DatabaseConfig,
    /// The first key of the ring encrypts everything.
    keyring: Keyring,
}

impl RekeyConfig {
    /// Reads the settings. Without a master key, this is a mistake.
    fn read(reader: &mut Reader<'_>) -> Self {
        let keyring = keyring::read(reader);
        if keyring.current_id().is_none() {
            reader.mistake(
                &settings::MASTER_KEY,
                "must be set; `postrider rekey` encrypts everything with its first key",
            );
        }
        Self { database: DatabaseConfig::read(reader), keyring }
    }
}

/// Encrypts everything. It may be interrupted at any time: the next run continues with the rest.
pub(super) async fn run(source: &Source) -> anyhow::Result<()> {
    let RekeyConfig { database, keyring } = source.read(RekeyConfig::read)?;
    let store = Store::new(&database);
    migrate::check_schema(&store).await?;
    let secrets = secrets(&store, &keyring).await.context(
        "not all secrets were encrypted again; run \
                                                           `postrider rekey` again",
    )?;
    let endpoints = endpoints(&store, &keyring).await.context(
        "not all headers and URLs were encrypted again; run \
                                                   `postrider rekey` again",
    )?;
    print(&format!(
        "encrypted with the master key {}: {secrets} secrets and the headers and URLs of {endpoints} \
         endpoints\n",
        keyring.current_id().unwrap_or_default()
    ))
}

async fn secrets(store: &Store, keyring: &Keyring) -> Result<usize, StoreError> {
    let mut total = 0;
    loop {
        match patiently(async || rekey::keys_step(store, keyring, STEP).await).await? {
            0 => return Ok(total),
            count => total += count,
        }
    }
}

async fn endpoints(store: &Store, keyring: &Keyring) -> Result<usize, StoreError> {
    let mut total = 0;
    let mut after = None;
    loop {
        let step = patiently(async || rekey::endpoints_step(store, keyring, after, STEP).await).await?;
        total += step.resealed;
        after = step.next;
        if after.is_none() {
            return Ok(total);
        }
    }
}

/// Runs a step, and retries it while its rows are locked.
async fn patiently<T>(step: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let mut tries = TRIES;
    loop {
        match step().await {
            Err(error) if error.is_contention() && tries > 0 => tokio::time::sleep(PAUSE).await,
            result => return result,
        }
        tries -= 1;
    }
}
