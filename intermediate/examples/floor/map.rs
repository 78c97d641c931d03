//! Keys into the map and out of it, as both hosts have to.

use crate::steps::{Steps, Whose};
use aya::EbpfLoader;
use aya::maps::{HashMap, MapData};

type Key = [u32; 9];
const KEYS: u32 = 5000;

pub(crate) fn measure(steps: &mut Steps) {
    let mut object = EbpfLoader::new().load(baton_loader::OBJECT).unwrap();
    let mut keys: HashMap<MapData, Key, u32> = object.take_map("FLOWS").unwrap().try_into().unwrap();
    for (whose, host) in [(Whose::Intermediate, "intermediate"), (Whose::Agent, "agent")] {
        for n in 0..KEYS {
            let key = [0, 0, 0xffff, n, 0, 0, 0xffff, 1, 7];
            steps.time(whose, &format!("a key into the map ({host})"), || keys.insert(key, n, 1)).unwrap();
            steps.time(whose, &format!("a key out of the map ({host})"), || keys.remove(&key)).unwrap();
        }
    }
}
