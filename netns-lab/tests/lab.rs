//! Labs without Baton: that they come up, carry traffic, stand side by side and go without leaving a trace.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{Traces, able, name, namespaces, small};
use netns_lab::counters::{self, LinkCounters};
use netns_lab::{Balancer, Lab, LabSpec, Program, content, plan};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

#[test]
fn a_lab_without_balancer_serves_curl_byte_for_byte() {
    if !able("a_lab_without_balancer_serves_curl_byte_for_byte") {
        return;
    }
    let lab = small("none");
    let before = lab.link_counters().unwrap();
    for (file, size) in content::FILES {
        let url = format!("http://{}/{file}", plan::target_addr(1));
        let got = lab.exec("client1", &["curl", "-sf", &url]).unwrap();
        assert!(got.status.success());
        assert_eq!(got.stdout.len() as u64, size);
        let (hash, _) = content::sha256_of(&got.stdout[..]).unwrap();
        assert_eq!(hash, content::sha256_of_file(&lab.www_dir().join(file)).unwrap());
    }
    let counted = || counters::difference(&before, &lab.link_counters().unwrap());
    // Both ends of a link are not read at one moment: the last packets may come in between.
    let mut links = counted();
    let link = |links: &[LinkCounters], name: &str| links.iter().find(|l| l.link == name).unwrap().clone();
    let agree = |of: LinkCounters| of.node.tx_bytes == of.router.rx_bytes;
    let until = Instant::now() + Duration::from_secs(10);
    while !agree(link(&links, "target1")) && Instant::now() < until {
        links = counted();
    }
    assert!(agree(link(&links, "target1")), "{links:?}");
    assert!(link(&links, "target1").node.tx_bytes > 116_000_000);
    assert!(link(&links, "client1").router.tx_bytes > 116_000_000);
    assert!(link(&links, "intermediate").node.tx_bytes < 10_000);
    let whoami = format!("http://{}/whoami", plan::target_addr(1));
    let said = lab.output("client1", &["curl", "-s", "-H", "X-Test: a b", &whoami]).unwrap();
    assert!(
        said.contains("target: target1\nclient: 10.90.11.2:") && said.contains("X-Test: a b\n"),
        "{said}"
    );
    // An answer may be here before its server has logged it.
    let log = || std::fs::read_to_string(lab.access_log("target1")).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let all_there = || log().ends_with('\n') && log().lines().count() > content::FILES.len();
    while !all_there() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = log();
    assert!(
        log.lines().all(|l| l.starts_with("10.90.11.2 "))
            && log.contains("\"GET /100m HTTP/1.1\" 200 104857600")
    );
}

#[test]
fn uploads_arrive_on_the_target() {
    if !able("uploads_arrive_on_the_target") {
        return;
    }
    let lab = small("up");
    let file = lab.www_dir().join("1m");
    let file = file.to_str().unwrap();
    let url = |path: &str| format!("http://{}{path}", plan::target_addr(1));
    lab.output("client1", &["curl", "-sf", "-T", file, &url("/upload/copy")]).unwrap();
    let copy = lab.upload_dir("target1").join("copy");
    assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(file).unwrap());
    let from = format!("@{file}");
    let said = lab.output("client1", &["curl", "-sf", "--data-binary", &from, &url("/upload")]).unwrap();
    assert_eq!(said, "received\n");
}

#[test]
fn two_labs_stand_side_by_side_and_go_one_by_one() {
    if !able("two_labs_stand_side_by_side_and_go_one_by_one") {
        return;
    }
    let one = Lab::up(&LabSpec::new(name("one")).balancer(Balancer::Haproxy)).unwrap();
    let two = Lab::up(&LabSpec::new(name("two")).balancer(Balancer::Nginx).clients(2)).unwrap();
    let url = format!("http://{}/whoami", plan::VIP.ip());
    let ask = |lab: &Lab, client: &str| lab.output(client, &["curl", "-sf", &url]).unwrap();
    assert!(ask(&one, "client1").contains("X-Forwarded-For: 10.90.11.2"));
    assert!(ask(&two, "client2").contains("X-Forwarded-For: 10.90.12.2"));
    let traces = Traces::of(&one.spec().name);
    assert!(!traces.left().is_empty(), "the tool finds what is there");
    drop(one);
    traces.assert_gone();
    assert!(ask(&two, "client1").contains("X-Forwarded-For: 10.90.11.2"));
    let traces = Traces::of(&two.spec().name);
    drop(two);
    traces.assert_gone();
}

#[test]
#[expect(clippy::zombie_processes, reason = "the lab ends and collects it")]
fn a_panic_leaves_nothing() {
    if !able("a_panic_leaves_nothing") {
        return;
    }
    let mut traces = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let lab = small("panic");
        // Also what was started by hand, and what outlives its killed leader.
        let _child = lab.spawn("client1", &["sh", "-c", "sleep 60 & sleep 60"]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        traces = Some(Traces::of(&lab.spec().name));
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    traces.unwrap().assert_gone();
}

#[test]
fn a_lab_that_does_not_come_up_says_why_and_leaves_nothing() {
    if !able("a_lab_that_does_not_come_up_says_why_and_leaves_nothing") {
        return;
    }
    let lab = small("dup");
    let again = Lab::up(&LabSpec::new(lab.spec().name.clone()).balancer(Balancer::None)).unwrap_err();
    assert!(again.to_string().contains("is up already"), "{again}");
    assert!(!namespaces(&lab.spec().name).is_empty(), "the one that is up stays");
    // A server whose configuration is wrong: the error has the log's words.
    lab.stop("target1", Program::Server).unwrap();
    std::fs::write(lab.config("target1", Program::Server), "nonsense;").unwrap();
    let wrong = lab.start("target1", Program::Server).unwrap_err().to_string();
    assert!(wrong.contains("nginx on target1 has ended") && wrong.contains("unknown directive"), "{wrong}");
}

#[test]
fn programs_are_stopped_killed_and_started_by_name() {
    if !able("programs_are_stopped_killed_and_started_by_name") {
        return;
    }
    let lab = small("steer");
    let url = format!("http://{}/1k", plan::target_addr(1));
    let serves = || lab.exec("client1", &["curl", "-sf", "-o", "/dev/null", &url]).unwrap().status.success();
    assert!(serves());
    lab.kill("target1", Program::Server).unwrap();
    assert!(!serves(), "the workers of the killed master are gone as well");
    assert!(lab.stop("target1", Program::Server).is_err());
    lab.start("target1", Program::Server).unwrap();
    assert!(serves());
    lab.restart("target1", Program::Server).unwrap();
    assert!(serves());
}

#[test]
fn a_lab_belongs_to_its_process_until_it_is_left() {
    if !able("a_lab_belongs_to_its_process_until_it_is_left") {
        return;
    }
    let lab = small("owned");
    let name = lab.spec().name.clone();
    // From another process, what `down --all` asks before it takes a lab.
    let state = netns_lab::LabState::load(&name).unwrap().unwrap();
    assert_eq!(state.owner.map(|o| o.pid), Some(std::process::id()));
    assert_eq!(netns_lab::running_owner(&name), None, "to the owner itself it is not another's");
    lab.leave().unwrap();
    let attached = Lab::attach(&name).unwrap();
    assert!(attached.exec("client1", &["true"]).unwrap().status.success());
    assert_eq!(attached.snapshot().owner, None);
    netns_lab::down(&name).unwrap();
}
