//! State files in words.

use super::command::config;
use super::page::Page;
use crate::wire::state::State;

/// The unikernels and policies of a state.
pub(super) fn state(page: &mut Page, state: &State) {
    page.group("state of the supervisor", |page| {
        for (path, policy) in &state.policies {
            page.field("policy", format_args!("{path} {policy}"));
        }
        for (name, settings, digest) in &state.unikernels {
            page.group(format_args!("unikernel: {name}"), |page| {
                page.field("kind", settings.kind);
                config(page, settings);
                page.field("image", format_args!("SHA-256 {digest}"));
            });
        }
        if state.policies.is_empty() && state.unikernels.is_empty() {
            page.line("empty");
        }
    });
}
