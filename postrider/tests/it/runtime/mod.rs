//! Services as processes: tasks that fail, logs that cannot be written, and what is logged about an outage.

mod outage_log;
mod supervision;
mod unwritable_log;
