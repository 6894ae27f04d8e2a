//! /metrics, /healthz, /readyz, /api/v1 and the control socket.
