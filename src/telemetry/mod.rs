//! Every metric and every log event has one definition, here.
