//! Loads every program of the object into the kernel and prints what its verifier made of it. Needs CAP_BPF and
//! CAP_NET_ADMIN. An argument names another object file.
use aya::EbpfLoader;
use aya::programs::SchedClassifier;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let object = match std::env::args_os().nth(1) {
        Some(path) => std::fs::read(path)?,
        None => baton_loader::adopt::object().or_else(|e| {
            eprintln!("without target_adopt: {e}");
            Ok::<_, baton_loader::adopt::AdoptError>(baton_loader::OBJECT.to_vec())
        })?,
    };
    let mut loaded =
        EbpfLoader::new().map_max_entries("FLOWS", 16).map_max_entries("SLOTS", 16).load(&object)?;
    println!("{:<24} {:>14} {:>14} {:>12}", "program", "verified", "translated", "jited");
    for (name, program) in loaded.programs_mut() {
        let program: &mut SchedClassifier = program.try_into()?;
        if let Err(e) = program.load() {
            println!("{name:<24} {e}");
            continue;
        }
        let info = program.info()?;
        println!(
            "{name:<24} {:>8} insns {:>8} bytes {:>6} bytes",
            info.verified_instruction_count().unwrap_or(0),
            info.size_translated().unwrap_or(0),
            info.size_jitted()
        );
    }
    Ok(())
}
