//! What holds of rings: the vectors that every implementation shares, properties for any sequence
//! of operations, and what the limits and refusals say.

#[path = "ring/acts.rs"]
mod acts;
#[path = "ring/balance.rs"]
mod balance;
#[path = "ring/formats.rs"]
mod formats;
#[path = "ring/limits.rs"]
mod limits;
#[path = "ring/model.rs"]
mod model;
#[path = "ring/properties.rs"]
mod properties;
#[path = "ring/refusals.rs"]
mod refusals;
#[path = "ring/vectors.rs"]
mod vectors;
