//! Numbers of bytes as people read them.

/// Bytes in binary units.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_in_the_largest_unit_that_gives_one() {
        let sizes = [0, 1023, 1024, 1536 << 10, 3 << 30, u64::MAX].map(size);
        assert_eq!(sizes, ["0.00 B", "1023.00 B", "1.00 KiB", "1.50 MiB", "3.00 GiB", "16777216.00 TiB"]);
    }
}
