//! Topic filters (MQTT 5, section 4.7).

/// Whether some topic matches both filters. Those of shared subscriptions count without
/// `$share/<group>/` (section 4.8.2).
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (unshared(one), unshared(other));
    // A wildcard at the start matches no topic that begins with `$` (section 4.7.2).
    let excludes = |one: &str, other: &str| one.starts_with(['#', '+']) && other.starts_with('$');
    if excludes(one, other) || excludes(other, one) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (None, None) => return true,
            // `a/#` matches `a` itself too.
            (Some("#"), _) | (_, Some("#")) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            _ => return false,
        }
    }
}

fn unshared(filter: &str) -> &str {
    let shared = filter.strip_prefix("$share/");
    let shared = shared.and_then(|shared| shared.split_once('/'));
    shared.map_or(filter, |(_group, filter)| filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_share_topics_overlap() {
        for (one, other, expected) in [
            ("a/b", "a/b", true),
            ("a/+", "a/b", true),
            ("a/+", "a/", true),
            ("a/#", "a", true),
            ("a/+", "a", false),
            ("a/#", "b/#", false),
            ("a/+/c", "a/b/d", false),
            ("a/+/c", "+/b/#", true),
            ("a/b", "a/b/c", false),
            ("#", "a/b", true),
            ("#", "$SYS/uptime", false),
            ("+/uptime", "$SYS/#", false),
            ("$SYS/+", "$SYS/uptime", true),
            ("$share/g/a/#", "a/b", true),
            ("$share/g/a/#", "$share/h/a/b", true),
            ("$share/g/a/#", "$share/g/b", false),
            ("$share/g/#", "$SYS/uptime", false),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }
}
