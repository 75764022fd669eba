// The browser client of Rejoinder.
export { RejoinderClient, claimsOf, type ClientEvents, type ClientOptions, type ConnectionState, type EventMap } from "./client";
export { ClientError, type ErrorKind } from "./errors";
export type * from "./events";
export type { MicrophoneConstraints } from "./audio";
export type { TargetOptions } from "./target";
export type { Dial, Receiver, Transport } from "./transport";
export { RejoinderTalk } from "./element";
