//! What look-ups and changes of a ring cost.

fn main() {
    divan::main();
}
