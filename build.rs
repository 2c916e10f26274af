//! The client module and the development page are part of the program: it is built anew when they change.

fn main() {
    println!("cargo:rerun-if-changed=client/js");
    println!("cargo:rerun-if-changed=server/page");
}
