//! One suite for every store: each promise in the documentation of `SessionStore` is a case, written once and run on
//! each store by itself, on a fresh one every time. `cargo test --test stores redis::` runs those of one store,
//! `cargo test --test stores leases::` those of one topic. The cases on redis start a `redis-server` of their own.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod leases;
mod lists;
mod model;
mod once;
mod records;
#[path = "../support/redis_server.rs"]
mod redis_server;
mod removals;
mod sessions;
mod stage;
mod time;
mod upkeep;
mod users;

use stage::{Kind, Stage};
use std::future::Future;
use std::time::Duration;

/// What a store does not promise, and why.
const EXCEPTIONS: &[Exception] = &[
    Exception {
        kind: Kind::Redis,
        case: "a_store_that_is_full_turns_logins_away_and_nobody_out",
        why: "how much a server holds is its own setting, `maxmemory`; a server that is full refuses to write",
    },
    Exception {
        kind: Kind::Cookie,
        case: "a_store_that_is_full_turns_logins_away_and_nobody_out",
        why: "browsers keep the sessions; what this process knows besides, it may forget",
    },
    // Between processes it promises nothing; `tests/gateway/cookie_store.rs` says what a cookie is worth after a restart.
];

struct Exception {
    kind: Kind,
    case: &'static str,
    why: &'static str,
}

macro_rules! suite {
    ($($cases:tt)*) => {
        cases_on!(memory Memory $($cases)*);
        cases_on!(file File $($cases)*);
        cases_on!(redis Redis $($cases)*);
        cases_on!(cookie Cookie $($cases)*);
        const CASES: &[&str] = names_of!($($cases)*);
    };
}

macro_rules! cases_on {
    ($store:ident $kind:ident $($topic:ident { $($case:ident,)* })*) => {
        mod $store {
            $(mod $topic {
                $(#[test]
                fn $case() {
                    $crate::run($crate::Kind::$kind, stringify!($case), $crate::$topic::$case);
                })*
            })*
        }
    };
}

macro_rules! names_of {
    ($($topic:ident { $($case:ident,)* })*) => { &[$($(stringify!($case),)*)*] };
}

suite! {
    records {
        a_new_record_is_found_as_it_was_written,
        an_unknown_name_is_unknown,
        a_record_of_200_kib_is_kept_whole,
        a_write_replaces_the_version_it_has_seen,
        a_write_that_has_seen_an_old_version_gets_the_newest,
        a_record_that_never_was_cannot_be_replaced,
        a_hundred_writers_lose_no_update,
        a_removal_is_said_once,
        what_is_removed_stays_removed,
        what_is_removed_stays_removed_while_others_write,
        what_was_acknowledged_is_there_after_a_restart,
    }
    time {
        a_record_is_over_when_it_expires,
        what_has_expired_cannot_be_written,
        a_visit_prolongs,
        a_visit_never_shortens,
        a_visit_prolongs_no_further_than_it_says,
        a_visit_makes_no_new_version,
        a_visit_revives_nothing_that_has_expired,
        a_visit_of_nothing_is_nothing,
    }
    users {
        the_oldest_of_the_same_user_goes,
        logins_at_once_keep_the_bound,
        a_store_that_is_full_turns_logins_away_and_nobody_out,
        what_is_over_makes_room,
    }
    removals {
        a_user_is_signed_out,
        a_user_of_one_issuer_is_signed_out,
        a_provider_session_is_signed_out,
        a_user_and_provider_session_are_both_compared,
        a_filter_that_names_neither_removes_nothing,
        names_are_compared_byte_by_byte,
        a_login_that_was_under_way_is_revoked,
        a_login_of_a_removed_provider_session_is_revoked,
        a_login_that_began_later_is_kept,
        a_login_of_somebody_else_is_kept,
        no_login_slips_past_a_removal_that_runs_meanwhile,
        a_user_is_found_after_one_of_their_sessions_has_ended,
        a_user_is_found_after_the_end_of_their_session_was_put_off,
    }
    lists {
        a_list_says_what_it_knows_in_the_open,
        a_list_selects,
        a_list_has_nothing_that_is_over,
        pages_are_complete_while_others_come_and_go,
        a_cursor_that_nobody_gave_is_no_disaster,
    }
    leases {
        a_lease_is_granted_to_one_of_fifty,
        a_lease_is_asked_for_twice_by_its_owner,
        a_lease_that_was_given_back_is_free,
        a_lease_that_was_given_back_unresolved_was_interrupted,
        a_lease_that_ran_out_was_interrupted,
        a_lease_that_ran_out_and_was_resolved_by_the_next_is_clean,
        a_lease_is_prolonged_by_its_owner,
        a_lease_is_not_prolonged_by_others,
        a_lease_is_not_given_back_by_others,
        a_lease_that_was_taken_over_is_lost,
        the_next_generation_was_not_interrupted,
        sessions_have_leases_of_their_own,
    }
    once {
        a_name_counts_once_among_fifty,
        a_name_counts_again_after_its_life,
        names_of_different_purposes_never_meet,
    }
    upkeep {
        a_store_answers_when_it_is_well,
        sweeping_drops_what_is_over_and_nothing_else,
        a_store_that_counts_counts_right,
        a_store_can_be_closed,
    }
    sessions {
        a_session_is_found_elsewhere_with_all_it_had,
        a_hundred_updates_here_and_elsewhere_are_all_there,
        an_update_elsewhere_is_seen_here,
        an_ended_session_is_ended_elsewhere,
        an_update_brings_back_nothing,
        a_user_is_signed_out_everywhere,
        a_login_under_way_does_not_survive_the_sign_out,
        what_is_held_open_hears_of_the_end,
        what_counts_once_counts_once_everywhere,
        a_session_awaits_its_exchange_for_a_minute,
        a_code_is_exchanged_once_among_fifty,
        a_refresh_token_has_one_successor_everywhere,
        who_acts_for_whom_is_known_elsewhere_and_after_a_restart,
        a_list_has_what_is_open,
        idle_slides_and_absolute_does_not,
        another_secret_opens_nothing,
        the_second_of_two_secrets_opens,
        a_user_with_too_many_sessions_loses_the_oldest_everywhere,
    }
    model {
        random_operations_agree_with_the_model,
    }
}

#[test]
fn exceptions_are_of_cases_that_exist() {
    for Exception { case, .. } in EXCEPTIONS {
        assert!(CASES.contains(case), "{case}");
    }
}

/// Runs a case on a fresh store of this kind.
fn run<F: Future<Output = ()>>(kind: Kind, name: &str, case: impl FnOnce(Stage) -> F) {
    if let Some(exception) = EXCEPTIONS.iter().find(|exception| exception.kind == kind && exception.case == name) {
        println!("{kind:?} does not promise this: {}", exception.why);
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let stage = Stage::of(kind).await;
        tokio::time::timeout(PATIENCE, case(stage)).await.unwrap_or_else(|_| panic!("{kind:?}: {name} hangs"));
    });
}

/// Far more than any case needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
