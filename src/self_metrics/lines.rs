//! The lines of a round: the names are albatross's, so that what shows them goes on (BEHAVIOUR 10).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::influx::line::{Style, counters, lines_of};
use crate::name::Path;
use crate::supervisor::Domain;
use crate::wire::Statistics;

/// Lines about one daemon.
#[derive(Debug)]
pub struct Lines {
    vm: &'static str,
    lines: Vec<String>,
}

impl Lines {
    /// None, so far; the tag `vm` of each will be this.
    pub fn new(vm: &'static str) -> Self {
        Self {
            vm,
            lines: Vec::new(),
        }
    }

    /// What its process has used; `now` is since 1970.
    pub fn process(&mut self, used: &Statistics, now: Duration) {
        let lines = lines_of(self.vm, used, now, Style::default());
        self.lines.extend(lines);
    }

    /// How many warnings and errors there were.
    pub fn log(&mut self, warnings: u64, errors: u64) {
        self.push("logs", None, &[("warnings", warnings), ("errors", errors)]);
    }

    /// Connections of this kind: open now, and ever.
    pub fn connections(&mut self, kind: &str, active: usize, total: u64) {
        let fields = [("active", active as u64), ("total", total)];
        self.push("connections", Some(("kind", kind)), &fields);
    }

    /// What is used at and below each path, and what is allowed where there is a policy.
    pub fn domains(&mut self, domains: &BTreeMap<Path, Domain<'_>>) {
        for (path, domain) in domains {
            let path = path.to_string();
            let tag = Some(("domain", &path[..]));
            if let Some(policy) = domain.policy {
                let fields = [
                    ("maximum unikernels", policy.unikernels),
                    ("maximum memory", policy.memory),
                    ("maximum block", policy.block.unwrap_or(0)),
                ];
                self.push("albatross-policies", tag, &fields);
            }
            let total = domain.attached.saturating_add(domain.unattached);
            let fields = [
                ("attached used block", domain.attached),
                ("unattached used block", domain.unattached),
                ("total used block", total),
                ("running unikernels", domain.unikernels),
                ("used memory", domain.memory),
            ];
            self.push("albatross-unikernels", tag, &fields);
        }
    }

    /// Each with its newline.
    pub fn into_inner(self) -> Vec<String> {
        self.lines
    }

    fn push(&mut self, measurement: &str, tag: Option<(&str, &str)>, fields: &[(&str, u64)]) {
        let tags: Vec<_> = [("vm", self.vm)].into_iter().chain(tag).collect();
        self.lines.push(counters(measurement, &tags, fields));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn the_lines_have_the_names_and_tags_of_albatross() {
        let policy = Policy {
            unikernels: 1,
            cpus: [].into(),
            memory: 2,
            block: Some(3),
            bridges: [].into(),
        };
        let domain = |policy| Domain {
            policy,
            unikernels: 4,
            memory: 5,
            attached: 6,
            unattached: 7,
        };
        let domains = [
            (Path::ROOT, domain(None)),
            ("a:b".parse().unwrap(), domain(Some(&policy))),
        ];
        let mut lines = Lines::new("albatross");
        lines.log(1, 2);
        lines.connections("unix", 3, 4);
        lines.domains(&domains.into());
        let used = "attached\\ used\\ block=6i,unattached\\ used\\ block=7i,total\\ used\\ block=13i,\
                    running\\ unikernels=4i,used\\ memory=5i\n";
        let expected = [
            "logs,vm=albatross warnings=1i,errors=2i\n".to_owned(),
            "connections,vm=albatross,kind=unix active=3i,total=4i\n".to_owned(),
            format!("albatross-unikernels,vm=albatross,domain=: {used}"),
            "albatross-policies,vm=albatross,domain=a:b: \
             maximum\\ unikernels=1i,maximum\\ memory=2i,maximum\\ block=3i\n"
                .to_owned(),
            format!("albatross-unikernels,vm=albatross,domain=a:b: {used}"),
        ];
        assert_eq!(lines.into_inner(), expected);
    }
}
