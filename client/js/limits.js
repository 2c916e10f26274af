/**
 * The bounds of what the client holds, and the times that it waits. Nothing is imported here and all are plain numbers: so
 * bundlers put them where they are used.
 */

// ---- sizes and counts -----------------------------------------------------------------------------------------------

/** No number of the protocol is above this. */
export const MAX_INTEGER = 9007199254740991;
/** No frame of a server is longer than this. It bounds what a stream can make a client hold. */
export const MAX_FRAME = 1 << 20;
/** The longest message that a server takes. */
export const MAX_MESSAGE = 1 << 17;
/** An event of an event stream that is longer than this is not of a Fulmar server. */
export const MAX_EVENT = 1 << 20;
export const MAX_CURSOR_BYTES = 2048;
export const MAX_CURSOR_CHANNELS = 32;
/** Payloads that are coming together in parts, in bytes, over all channels. */
export const ASSEMBLY_BYTES = 256 * 1024;
/** Keys remembered because they changed above their channel's floor, over all channels. */
export const REMEMBERED_KEYS = 1 << 18;
/** Removed keys that are remembered in a channel, so that an older value that was overtaken does not bring them back. */
export const MAX_REMOVED = 1024;
/** Keys with a publication of an epoch of which the reset has yet to come: datagrams overtake it. */
export const MAX_AHEAD = 4096;
/** Publications that may wait for their answers. */
export const MAX_PENDING = 1000;
/** Publications that wait for their iterator: above the first the channel pauses, below the second it goes on. */
export const HIGH_WATER = 256, LOW_WATER = 64;
/** Datagrams that may wait in the browser while the page is busy. What is pushed out of state comes again. */
export const INCOMING_DATAGRAMS = 512;
/** Messages in datagrams kept because they came before the `subscribed` of a channel that they name, and for how long. */
export const MAX_EARLY = 64, EARLY_MS = 3000;
/** Frames before the newest that an acknowledgement can name. */
export const ACK_BITS = 62;
/** What goes with the CONNECT (PROTOCOL.md, section 8): so many subscriptions, in so many bytes. */
export const MAX_ASKED = 16, MAX_ASKED_BYTES = 3072;
/** Acknowledgements that the browser has not sent yet. One that comes later says more. */
export const MAX_ACKS_UNDER_WAY = 4;

// ---- times ----------------------------------------------------------------------------------------------------------

/** A timer cannot wait for longer. */
export const MAX_TIMER_MS = 2147483647;
/** How long a frame waits for others to be acknowledged with it, how many do not wait for more, and the shortest time from one to the next. */
export const ACK_DELAY_MS = 20, ACK_FRAMES = 4, ACK_PAUSE_MS = 4;
/** The least of the upper bounds of a pause before coming back and the greatest. */
export const FIRST_PAUSE_MS = 500, MAX_PAUSE_MS = 30_000;
/** A connection that has held for so long was a good one: the pauses begin anew. */
export const STABLE_MS = 10_000;
/** When better transports are dialled behind a fallback: soon at first, then ever less often. */
export const FIRST_CLIMB_MS = 5000, MAX_CLIMB_MS = 5 * 60_000;
/** For how long it is remembered which transport worked, and which did not. */
export const VERDICT_MS = 5 * 60_000;
/** For how long WebTransport is dialled where it opened before, in the same network, without asking. */
export const KNOWN_MS = 24 * 60 * 60_000;
/** How long it may take to open there until the server is asked: Firefox does not notice that nobody is at a port. */
export const KNOWN_PATIENCE_MS = 1000;
/** A timer that is later than this says that the page slept, and that what came meanwhile may still wait to be read. */
export const OVERSLEPT_MS = 1500;
/** For how long a publication is sent again: the server knows its id for 2 min, and has to get it before. */
export const REPEAT_MS = 100_000;
/** When publications are sent again over HTTP, after a request that came to nothing. */
export const AGAIN_MS = 1000;
/** An event stream of which nothing comes for so long does not come through. */
export const SILENCE_MS = 3000;
/** How long the stream may take that the server opens for what went with the CONNECT. */
export const ASKED_MS = 3000;
/** How long reading goes on before the page gets its turn. */
export const TURN_MS = 6;
/** How long a stream's end waits for the session's own, which tells the reason. */
export const GRACE_MS = 1000;
/** The longest of the pauses between attempts to open a stream. */
export const MAX_STREAM_PAUSE_MS = 1000;
