//! What a lab needs on disk before its programs start.

use crate::lab::patiently;
use crate::spec::Balancer;
use crate::steer::Program;
use crate::{Lab, command, config, content, interrupt, plan, server_cert};
use anyhow::{Context, Result};
use std::fs;
use std::net::{IpAddr, SocketAddr};

impl Lab {
    /// Directories, files to serve, configurations, certificates, bpffs.
    pub(crate) fn prepare(&self) -> Result<()> {
        for node in self.nodes() {
            fs::create_dir_all(self.node_dir(&node.name))?;
        }
        let www = self.www_dir();
        patiently(|| fs::create_dir_all(&www)).with_context(|| format!("cannot make {}", www.display()))?;
        content::write_all(&www)?;
        interrupt::check()?;
        let targets = self.targets();
        for (name, addresses) in &targets {
            fs::create_dir_all(self.upload_dir(name))?;
            let uploads = plan::data_dir(&self.spec().name).join(name);
            let text = config::nginx::target(name, addresses, &self.node_dir(name), &www, &uploads);
            fs::write(self.config(name, Program::Server), text)?;
            server_cert::write(&self.node_dir(name), name, addresses)?;
        }
        let path = self.config(plan::INTERMEDIATE, Program::Balancer);
        match self.spec().balancer {
            Balancer::Haproxy => {
                fs::write(path, config::proxy::haproxy(&self.vips(), &targets, self.spec()))?;
            }
            Balancer::Nginx => {
                fs::write(
                    path,
                    config::proxy::nginx(&self.vips(), &targets, &self.node_dir(plan::INTERMEDIATE)),
                )?;
            }
            Balancer::Envoy => fs::write(path, config::proxy::envoy(&self.vips(), &targets))?,
            Balancer::Caddy => fs::write(path, config::proxy::caddy(&self.vips(), &targets))?,
            Balancer::Baton => self.prepare_baton(&targets)?,
            Balancer::None => {}
        }
        Ok(())
    }

    fn prepare_baton(&self, targets: &[(String, Vec<IpAddr>)]) -> Result<()> {
        let certs = self.certs_dir();
        let mut args = vec!["certs".to_owned(), "--dir".to_owned(), certs.to_string_lossy().into_owned()];
        args.extend([
            "--intermediate".to_owned(),
            named(
                plan::INTERMEDIATE,
                &self.spec().family.of(plan::INTERMEDIATE_ADDR, plan::INTERMEDIATE_ADDR6),
            ),
        ]);
        for (name, addresses) in targets {
            args.extend(["--agent".to_owned(), named(name, addresses)]);
        }
        command::run(&self.program("target-agent")?.to_string_lossy(), &args)?;
        let nodes = targets.iter().map(|(name, _)| name.as_str()).chain([plan::INTERMEDIATE]);
        for node in nodes {
            interrupt::check()?;
            let bpf = self.bpf_dir(node);
            fs::create_dir_all(&bpf)?;
            if self.spec().uses_ebpf() {
                command::run("mount", &["-t", "bpf", "bpf", &bpf.to_string_lossy()])?;
            }
        }
        let none = crate::spec::Sections::new();
        for (name, addresses) in targets {
            let (run, bpf) = (self.node_dir(name), self.bpf_dir(name));
            let places = config::baton::Places { run: &run, bpf: &bpf, certs: &certs };
            let own = self.spec().agent.get(name).unwrap_or(&none);
            let mut text =
                config::baton::agent(name, addresses, &self.vips(), &places, &[&self.spec().agents, own]);
            let address = addresses.first().map(|a| SocketAddr::new(*a, 0).to_string()).unwrap_or_default();
            text.push_str(&self.spec().agents_text.replace("ADDRESS", address.trim_end_matches(":0")));
            fs::write(self.config(name, Program::Agent), text)?;
        }
        let (run, bpf) = (self.node_dir(plan::INTERMEDIATE), self.bpf_dir(plan::INTERMEDIATE));
        let places = config::baton::Places { run: &run, bpf: &bpf, certs: &certs };
        let mut text =
            config::baton::intermediate(targets, &self.vips(), &places, &[&self.spec().intermediate]);
        text.push_str(&self.spec().intermediate_text);
        fs::write(self.config(plan::INTERMEDIATE, Program::Balancer), text)?;
        Ok(())
    }
}

/// `NAME=ADDRESS,ADDRESS`, as `certs` takes nodes.
fn named(name: &str, addresses: &[IpAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    format!("{name}={}", addresses.join(","))
}
