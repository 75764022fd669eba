export class RejoinderTalk {}
