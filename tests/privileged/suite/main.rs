//! Tests against the running kernel, as root: `cargo test -p privileged`, or as a stage of
//! `cargo xtask test`. Each makes containers of its own and removes them; a daemon is started
//! for the test, or, where the test is not about starting and ending, shared with others.
//!
//! `BULKHEAD_TESTS` names some of them, with commas, as a guest of `cargo xtask vm` is given them. What cannot run here is reported as ignored, with the reason; `xtask/must-run.toml` names what must
//! have run, so that an ignored test is never taken for a pass.

// A line on standard output in the middle of a test hides its verdict from `cargo xtask test`.
#![deny(clippy::print_stdout)]

mod abi;
mod attacks;
mod baselines;
mod canaries;
mod chain;
mod connects;
mod container;
mod daemon;
mod engine;
mod faults;
mod flood;
mod held_back;
mod identity;
mod incidents;
mod kill_set;
mod lab;
mod live;
mod numbers;
mod outside;
mod pace;
mod packages;
mod preempted;
mod quarantine;
mod recording;
mod refusals;
mod responses;
mod restart;
mod shared;
mod storm;
mod tamper;
mod uring;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::path::Path;

/// What a test needs besides this program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// The eBPF object, which the build embeds if it is there.
    Object,
    /// The running kernel's type information.
    KernelTypes,
    /// Root, the daemon with its kernel half, and a few tools.
    Daemon,
    /// As `Daemon`, and a browser.
    Browser,
    /// Root and a Docker engine with an image, named in the environment.
    Engine,
}

type Body = fn() -> anyhow::Result<()>;

const TESTS: &[(&str, Needs, Body)] = &[
    ("abi_matches_object_btf", Needs::Object, abi::abi_matches_object_btf),
    ("hook_prototypes_match_kernel", Needs::KernelTypes, abi::hook_prototypes_match_kernel),
    ("reverse_shell_killed_in_protect", Needs::Daemon, attacks::reverse_shell_killed_in_protect),
    ("reverse_shell_found_in_monitor", Needs::Daemon, attacks::reverse_shell_found_in_monitor),
    ("pipe_to_shell_never_runs", Needs::Daemon, attacks::pipe_to_shell_never_runs),
    ("no_exec_goes_unjudged", Needs::Daemon, preempted::no_exec_goes_unjudged),
    ("downloaded_script_never_runs", Needs::Daemon, attacks::downloaded_script_never_runs),
    ("sourced_script_is_found", Needs::Daemon, attacks::sourced_script_is_found),
    ("cron_and_key_writes", Needs::Daemon, attacks::cron_and_key_writes),
    ("entry_point_installs_its_own_jobs", Needs::Daemon, attacks::entry_point_installs_its_own_jobs),
    ("host_mount_write_is_escape", Needs::Daemon, attacks::host_mount_write_is_escape),
    ("host_root_is_escape", Needs::Daemon, outside::host_root_is_escape),
    ("shadow_reads_are_judged", Needs::Daemon, outside::shadow_reads_are_judged),
    ("names_are_refused", Needs::Daemon, refusals::names_are_refused),
    ("rename_over_profile_is_refused", Needs::Daemon, refusals::rename_over_profile_is_refused),
    ("creation_is_refused", Needs::Daemon, refusals::creation_is_refused),
    ("downloaded_code_never_runs", Needs::Daemon, refusals::downloaded_code_never_runs),
    ("own_library_is_no_finding", Needs::Daemon, refusals::own_library_is_no_finding),
    ("shell_on_a_socket_never_starts", Needs::Daemon, refusals::shell_on_a_socket_never_starts),
    ("connection_on_stdio_is_no_shell", Needs::Daemon, refusals::connection_on_stdio_is_no_shell),
    ("runtime_socket_is_refused", Needs::Daemon, refusals::runtime_socket_is_refused),
    ("ring_writes_are_judged", Needs::Daemon, uring::ring_writes_are_judged),
    ("ring_names_are_judged", Needs::Daemon, uring::ring_names_are_judged),
    ("ring_downloads_are_tainted", Needs::Daemon, uring::ring_downloads_are_tainted),
    ("package_scripts_are_judged", Needs::Daemon, packages::package_scripts_are_judged),
    ("runtime_layouts_are_told_apart", Needs::Daemon, identity::runtime_layouts_are_told_apart),
    ("short_lived_container_is_identified", Needs::Daemon, identity::short_lived_container_is_identified),
    ("churn_2000_containers_rss_flat", Needs::Daemon, identity::churn_2000_containers_rss_flat),
    ("running_before_daemon_is_found", Needs::Daemon, identity::running_before_daemon_is_found),
    ("host_is_alert_only", Needs::Daemon, identity::host_is_alert_only),
    ("config_errors_exit_64", Needs::Daemon, faults::config_errors_exit_64),
    ("no_root_exits_77", Needs::Daemon, faults::no_root_exits_77),
    ("kernel_half_missing", Needs::Daemon, faults::kernel_half_missing),
    ("sighup_reload_keeps_old_on_error", Needs::Daemon, faults::sighup_reload_keeps_old_on_error),
    ("sigterm_exits_0_and_detaches", Needs::Daemon, faults::sigterm_exits_0_and_detaches),
    ("output_full_keeps_detecting", Needs::Daemon, faults::output_full_keeps_detecting),
    ("control_socket_root_only", Needs::Daemon, faults::control_socket_root_only),
    ("docker_absent_says_once", Needs::Daemon, faults::docker_absent_says_once),
    ("private_cgroup_mount_comes_and_goes", Needs::Daemon, live::private_cgroup_mount_comes_and_goes),
    (
        "live_container_is_completed_and_its_culprit_killed",
        Needs::Engine,
        live::live_container_is_completed_and_its_culprit_killed,
    ),
    ("live_containers_before_and_short_are_named", Needs::Engine, live::live_containers_before_and_short_are_named),
    ("live_audit_finds_bad_image_and_shell", Needs::Engine, live::live_audit_finds_bad_image_and_shell),
    ("quarantine_cuts_on_v1", Needs::Daemon, quarantine::quarantine_cuts_on_v1),
    ("quarantine_cuts_on_hybrid", Needs::Daemon, quarantine::quarantine_cuts_on_hybrid),
    ("quarantine_cuts_on_v2", Needs::Daemon, quarantine::quarantine_cuts_on_v2),
    ("freeze_stops_and_thaw_resumes", Needs::Daemon, responses::freeze_stops_and_thaw_resumes),
    ("recording_is_judged_alike", Needs::Daemon, recording::recording_is_judged_alike),
    ("orders_are_checked_and_on_record", Needs::Daemon, responses::orders_are_checked_and_on_record),
    ("findings_freeze_quarantine_and_stop", Needs::Daemon, responses::findings_freeze_quarantine_and_stop),
    ("a_set_cannot_outrun_the_killer", Needs::Daemon, kill_set::a_set_cannot_outrun_the_killer),
    ("killed_daemon_leaves_enforcement", Needs::Daemon, restart::killed_daemon_leaves_enforcement),
    ("container_made_meanwhile_is_held", Needs::Daemon, restart::container_made_meanwhile_is_held),
    ("taint_survives_a_killed_daemon", Needs::Daemon, restart::taint_survives_a_killed_daemon),
    (
        "stopped_daemon_leaves_enforcement_with_keep",
        Needs::Daemon,
        restart::stopped_daemon_leaves_enforcement_with_keep,
    ),
    ("killed_daemon_releases_after_the_limit", Needs::Daemon, restart::killed_daemon_releases_after_the_limit),
    ("unload_removes_everything", Needs::Daemon, restart::unload_removes_everything),
    ("second_daemon_takes_over_or_says_why_not", Needs::Daemon, restart::second_daemon_takes_over_or_says_why_not),
    ("other_programs_keep_the_maps", Needs::Daemon, restart::other_programs_keep_the_maps),
    ("findings_are_not_told_again", Needs::Daemon, restart::findings_are_not_told_again),
    ("storm_over_a_killed_daemon_is_accounted_for", Needs::Daemon, storm::storm_over_a_killed_daemon_is_accounted_for),
    ("overflow_without_a_daemon_is_counted", Needs::Daemon, storm::overflow_without_a_daemon_is_counted),
    ("rows_of_a_killed_daemon_are_counted", Needs::Daemon, storm::rows_of_a_killed_daemon_are_counted),
    ("flood_costs_only_the_flooder", Needs::Daemon, flood::flood_costs_only_the_flooder),
    ("a_number_used_again_bears_no_mark", Needs::Daemon, numbers::a_number_used_again_bears_no_mark),
    ("what_is_written_over_bears_no_mark", Needs::Daemon, numbers::what_is_written_over_bears_no_mark),
    ("marks_survive_a_flood_of_marks", Needs::Daemon, flood::marks_survive_a_flood_of_marks),
    ("container_cannot_kill_or_trace_the_daemon", Needs::Daemon, tamper::container_cannot_kill_or_trace_the_daemon),
    ("container_cannot_freeze_the_daemon_or_leave", Needs::Daemon, tamper::container_cannot_freeze_the_daemon_or_leave),
    ("daemon_is_not_the_first_to_go", Needs::Daemon, tamper::daemon_is_not_the_first_to_go),
    ("control_socket_refuses_containers", Needs::Daemon, tamper::control_socket_refuses_containers),
    ("container_to_cron_child_is_one_incident", Needs::Daemon, incidents::container_to_cron_child_is_one_incident),
    ("the_case_is_one_incident", Needs::Daemon, chain::the_case_is_one_incident),
    ("exception_spares_what_it_names", Needs::Daemon, incidents::exception_spares_what_it_names),
    ("explained_exception_silences", Needs::Daemon, incidents::explained_exception_silences),
    ("report_is_drawn_by_a_browser", Needs::Browser, incidents::report_is_drawn_by_a_browser),
    ("learned_baseline_is_held", Needs::Daemon, baselines::learned_baseline_is_held),
    (
        "baseline_holds_the_service_without_a_daemon",
        Needs::Daemon,
        baselines::baseline_holds_the_service_without_a_daemon,
    ),
    ("baseline_file_is_all_it_takes", Needs::Daemon, baselines::baseline_file_is_all_it_takes),
    ("unexpected_connections_never_leave", Needs::Daemon, connects::unexpected_connections_never_leave),
    ("connections_are_held_without_a_daemon", Needs::Daemon, connects::connections_are_held_without_a_daemon),
    ("baseline_counts_what_it_expects", Needs::Daemon, held_back::expected_starts_are_counted),
    ("baseline_drift_lock_holds_for_code", Needs::Daemon, held_back::drift_lock_holds_for_code),
    ("baseline_forbidden_starts_have_no_effect", Needs::Daemon, held_back::no_forbidden_start_has_an_effect),
    ("quiet_baseline_protects_by_itself", Needs::Daemon, baselines::quiet_baseline_protects_by_itself),
    ("broken_baseline_changes_nothing", Needs::Daemon, baselines::broken_baseline_changes_nothing),
    ("enforcement_is_verified", Needs::Daemon, canaries::enforcement_is_verified),
    // It leaves nothing for the next.
    ("container_cannot_touch_maps_or_pins", Needs::Daemon, tamper::container_cannot_touch_maps_or_pins),
    ("policy_off_label", Needs::Daemon, engine::policy_off_label),
];

/// Programs the stages are made with.
const TOOLS: &[&str] = &["bash", "curl", "dpkg", "dpkg-deb", "ip", "nsenter", "perl", "setpriv", "unshare"];

fn main() -> std::process::ExitCode {
    if let Some(act) = uring::act() {
        return act;
    }
    let mut arguments = Arguments::from_args();
    // The kernel, the cgroups and two processors are shared by all.
    arguments.test_threads.get_or_insert(1);
    let root = rustix::process::geteuid().is_root();
    if root
        && !arguments.list
        && let Err(error) = container::sweep().and_then(|()| restart::sweep())
    {
        eprintln!("what an earlier run left behind could not be removed: {error:#}");
    }
    let chosen = std::env::var("BULKHEAD_TESTS").ok();
    let is_chosen = |name: &str| chosen.as_ref().is_none_or(|list| list.split(',').any(|wanted| wanted == name));
    let chosen_tests = TESTS.iter().filter(|(name, _, _)| is_chosen(name));
    let trials = chosen_tests.map(|(name, needs, body)| trial(name, *needs, *body)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared::retire();
    conclusion.exit_code()
}

fn trial(name: &'static str, needs: Needs, body: Body) -> Trial {
    Trial::ignorable_test(name, move || match missing(needs) {
        Some(why) => Ok(Completion::ignored_with(why)),
        None => {
            let _bill = pace::Bill::open(name);
            // The next test does not start with what was left by one that failed.
            let spoilt = Spoilt;
            body().map_err(|error| Failed::from(format!("{error:#}")))?;
            std::mem::forget(spoilt);
            Ok(Completion::Completed)
        }
    })
}

/// Does away with the shared daemon when it is dropped.
struct Spoilt;

impl Drop for Spoilt {
    fn drop(&mut self) {
        shared::retire();
    }
}

/// Why a test cannot run here.
fn missing(needs: Needs) -> Option<String> {
    if needs == Needs::KernelTypes {
        let there = Path::new(monitor::kernel::btf::VMLINUX).exists();
        return (!there).then(|| "this kernel has no type information (CONFIG_DEBUG_INFO_BTF)".into());
    }
    if monitor::kernel::object::BYTES.is_empty() {
        return Some("built without the eBPF object (`cargo xtask build`)".into());
    }
    match needs {
        Needs::Object | Needs::KernelTypes => None,
        Needs::Engine
            if [live::SOCKET_VARIABLE, live::IMAGE_VARIABLE].iter().any(|v| std::env::var_os(v).is_none()) =>
        {
            Some("no Docker engine is named: `cargo xtask test` starts one".into())
        }
        Needs::Engine => (!rustix::process::geteuid().is_root()).then(|| "needs root".into()),
        Needs::Browser if !installed(incidents::BROWSER) => Some(format!("{} is not installed", incidents::BROWSER)),
        Needs::Browser => missing(Needs::Daemon),
        Needs::Daemon if !rustix::process::geteuid().is_root() => Some("needs root".into()),
        Needs::Daemon if daemon::binary().is_none() => {
            Some("no bulkhead program: `cargo xtask build`, or name one in BULKHEAD_BINARY".into())
        }
        Needs::Daemon => TOOLS.iter().find(|tool| !installed(tool)).map(|tool| format!("{tool} is not installed")),
    }
}

fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| Path::new(&dir).join(tool).exists())
}
