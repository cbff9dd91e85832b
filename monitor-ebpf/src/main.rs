//! Bulkhead's kernel half. `probes` are the doors (one file a hook family), `kernel` reads kernel
//! objects, `reflex` decides, `record` writes to the rings as far as `share`
//! admits it.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod kernel;
mod layout;
mod maps;
mod probes;
mod record;
mod reflex;
mod share;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // A reachable panic would fail the verifier here rather than pass unnoticed.
    loop {}
}
