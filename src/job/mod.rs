//! Jobs and outcomes as values, and the client that runs children.
