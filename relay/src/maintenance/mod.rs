//! Upkeep: everything that the relay does besides moving ids to Redis. For a while, deliveries flow without it.

mod cleanup;
mod partitions;
mod replay;
mod statistics;
mod stranded;
mod sweep;

use postrider_runtime::every::Tasks;

use crate::Relay;

/// Starts the maintenance tasks.
pub(crate) fn start(relay: &Relay, tasks: &mut Tasks<Relay>) {
    relay.health.expect(partitions::PART);
    tasks.every("relay replay", replay::CADENCE, replay::step);
    tasks.every("relay sweep", sweep::CADENCE, sweep::Sweep::default());
    tasks.every("relay stranded", stranded::CADENCE, stranded::Search::default());
    tasks.every("relay cleanup", cleanup::CADENCE, cleanup::step);
    tasks.every("relay statistics", statistics::CADENCE, statistics::measure);
    tasks.every("relay survey", statistics::SURVEY_CADENCE, statistics::survey);
    tasks.every("relay partitions", partitions::CADENCE, partitions::maintain);
}
