// A worklet's code as a file of its own: the import is its address.
declare module "*?worker&url" {
  const address: string;
  export default address;
}
