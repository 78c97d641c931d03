//! The steps of docs/install.md, for whoever follows them: commands and configuration as they stand there, with the lab's
//! addresses in place of the examples'.

use netns_lab::plan;
use std::cell::RefCell;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/install.md");

/// What its code blocks say, and what of it has not been used yet.
pub(crate) struct Steps {
    commands: RefCell<Vec<String>>,
    configuration: RefCell<Vec<String>>,
    reload: String,
    socket_unit: String,
}

impl Steps {
    pub(crate) fn read() -> Steps {
        let text = std::fs::read_to_string(FILE).unwrap();
        // What comes after the seventh step is no step.
        let (text, more) = text.split_once("\n## When it changes\n").unwrap();
        let socket_unit = more.split("\n```ini\n").nth(1).unwrap().split("```").next().unwrap();
        let changed = "\n| change the intermediate's configuration | `";
        let reload = more.split(changed).nth(1).unwrap().split('`').next().unwrap().to_owned();
        let blocks = |kind: &str| -> Vec<String> {
            let begin = format!("\n```{kind}\n");
            text.split(&begin).skip(1).map(|rest| here(rest.split_once("```").unwrap().0)).collect()
        };
        let commands = blocks("sh").iter().flat_map(|block| block.lines()).map(str::to_owned).collect();
        Steps {
            commands: RefCell::new(commands),
            configuration: RefCell::new(blocks("toml")),
            reload,
            socket_unit: here(socket_unit),
        }
    }

    /// The command that begins so, without the comment behind it; of several the first. Each is given out once.
    pub(crate) fn command(&self, begin: &str) -> String {
        let mut commands = self.commands.borrow_mut();
        let at = commands.iter().position(|line| line.starts_with(begin));
        let line = commands.remove(at.unwrap_or_else(|| panic!("no command {begin} is left in {FILE}")));
        line.split("  #").next().unwrap().trim().to_owned()
    }

    /// The first block of configuration that was not given out yet.
    pub(crate) fn configuration(&self) -> String {
        self.configuration.borrow_mut().remove(0)
    }

    /// What brings a change of the intermediate's configuration into force.
    pub(crate) fn reload(&self) -> &str {
        &self.reload
    }

    /// The socket unit, which whoever wants to writes; and in which file, as its first line says.
    pub(crate) fn socket_unit(&self) -> (&str, &str) {
        let (file, _) = self.socket_unit.split_once('\n').unwrap();
        (file.strip_prefix("# ").unwrap(), &self.socket_unit)
    }

    /// Nothing stands there that was not done.
    pub(crate) fn assert_all_done(&self) {
        let left = (self.commands.borrow(), self.configuration.borrow());
        assert!(left.0.is_empty() && left.1.is_empty(), "not done: {left:?}");
    }
}

/// With the addresses of the lab.
fn here(text: &str) -> String {
    // Longer ones first: some begin as others do.
    let addresses = [
        ("192.0.2.100", *plan::VIP.ip()),
        ("192.0.2.10", plan::INTERMEDIATE_ADDR),
        ("192.0.2.21", plan::target_addr(1)),
        ("192.0.2.22", plan::target_addr(2)),
        ("198.51.100.7", plan::client_addr(1)),
    ];
    addresses.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, &new.to_string()))
}
