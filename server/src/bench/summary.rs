//! Medians and percentiles.

/// The value below which `percent` of the values lie. Sorts them.
pub(super) fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * percent / 100.0).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The middle value.
pub(super) fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50.0)
}
