//! API document generator: `cargo run -p fsa-server --example openapi > web/api.json`.

fn main() {
    let document = fsa_server::api::document();
    println!(
        "{}",
        document
            .to_pretty_json()
            .expect("the document is made of plain values")
    );
}
