//! The names of metrics.

/// Declares the metrics of a crate: a constant for each name, and `describe()`, which gives the recorder their
/// descriptions. The name of a histogram ends in `_seconds` or `_size`: that decides its buckets.
///
/// ```
/// postrider_runtime::metrics! {
///     counter STEPS = "postrider_example_steps_total": "steps taken";
///     histogram STEP_SECONDS = "postrider_example_step_seconds": "duration of a step";
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! metrics {
    ($($kind:ident $constant:ident = $name:literal: $meaning:literal;)+) => {
        $(#[doc = $meaning] pub(crate) const $constant: &str = $name;)+

        /// Describes the metrics to the recorder. Call it once, after the recorder is installed.
        pub(crate) fn describe() {
            $($crate::describe_metric!($kind $constant: $meaning);)+
        }
    };
}

/// Describes one metric according to its kind.
#[doc(hidden)]
#[macro_export]
macro_rules! describe_metric {
    (counter $name:ident: $meaning:literal) => {
        ::metrics::describe_counter!($name, $meaning)
    };
    (gauge $name:ident: $meaning:literal) => {
        ::metrics::describe_gauge!($name, $meaning)
    };
    (histogram $name:ident: $meaning:literal) => {
        ::metrics::describe_histogram!($name, $meaning)
    };
}

metrics! {
    counter LOG_LINES_LOST = "postrider_log_lines_lost_total":
        "log lines that were lost because standard error could not be written to, or was not read";
    histogram TASK_STEP_SECONDS = "postrider_task_step_seconds": "duration of one step of a background task";
    counter TASK_FAILURES = "postrider_task_failures_total": "steps of a background task that failed";
}
