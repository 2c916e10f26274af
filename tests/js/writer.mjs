/** Writes frames field by field, for what plays a server in tests. */
import { pack } from '../../client/js/bytes.js';

export class Writer {
  #fields = [];

  bytes(value) {
    this.#fields.push(value);
    return this;
  }

  byte(value) {
    return this.bytes(Uint8Array.of(value));
  }

  integer(value) {
    return this.bytes(value);
  }

  /** An integer of up to 62 bits. */
  wide(value) {
    return this.bytes(BigInt(value));
  }

  string(value) {
    return this.bytes(value);
  }

  finish() {
    return pack(this.#fields);
  }
}
