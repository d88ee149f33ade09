package headspring.flink;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;

/** The wire format of protocol buffers, as far as our two messages need it: varints and byte strings. */
final class Wire {
    private static final int VARINT = 0;
    private static final int FIXED64 = 1;
    private static final int BYTES = 2;
    private static final int FIXED32 = 5;

    private Wire() {}

    /** Walks the fields of one message; every length is checked before it is followed. */
    static final class Reader {
        private final byte[] bytes;
        private int at;
        private int type;

        /** Number of the field that {@link #next} found. */
        int field;

        /** Its value, where {@link #isNumber}. */
        long number;

        /** Its place, where {@link #isBytes}. */
        int start;

        int length;

        Reader(byte[] bytes) {
            this.bytes = bytes;
        }

        /**
         * Moves on to the next field; false at the end.
         *
         * @throws IllegalArgumentException the bytes are no message
         */
        boolean next() {
            if (at == bytes.length) {
                return false;
            }
            long tag = varint();
            long name = tag >>> 3;
            if (name < 1 || name > 0x1fffffff) {
                throw new IllegalArgumentException("field number " + name + " at byte " + at);
            }
            field = (int) name;
            type = (int) (tag & 7);
            switch (type) {
                case VARINT -> number = varint();
                case FIXED64 -> step(8);
                case BYTES -> {
                    long size = varint();
                    if (size < 0 || size > bytes.length - at) {
                        throw new IllegalArgumentException("field " + field + " says " + size + " bytes, left are "
                                + (bytes.length - at));
                    }
                    start = at;
                    length = (int) size;
                    step(length);
                }
                case FIXED32 -> step(4);
                default -> throw new IllegalArgumentException("wire type " + type + " at byte " + at);
            }
            return true;
        }

        boolean isNumber() {
            return type == VARINT;
        }

        boolean isBytes() {
            return type == BYTES;
        }

        String text() {
            return new String(bytes, start, length, StandardCharsets.UTF_8);
        }

        private void step(int size) {
            if (size > bytes.length - at) {
                throw new IllegalArgumentException("the message ends in the middle of field " + field);
            }
            at += size;
        }

        private long varint() {
            long value = 0;
            for (int shift = 0; shift < 64; shift += 7) {
                if (at == bytes.length) {
                    throw new IllegalArgumentException("the message ends in the middle of a number");
                }
                byte next = bytes[at++];
                value |= (long) (next & 0x7f) << shift;
                if (next >= 0) {
                    return value;
                }
            }
            throw new IllegalArgumentException("a number of more than 64 bits at byte " + at);
        }
    }

    /** Builds one message; a field that holds its default is left out, as proto3 wants it. */
    static final class Writer {
        private final ByteArrayOutputStream out;

        Writer(int size) {
            out = new ByteArrayOutputStream(size);
        }

        void number(int field, long value) {
            if (value != 0) {
                varint((long) field << 3 | VARINT);
                varint(value);
            }
        }

        void bytes(int field, byte[] value) {
            if (value.length != 0) {
                varint((long) field << 3 | BYTES);
                varint(value.length);
                out.write(value, 0, value.length);
            }
        }

        byte[] done() {
            return out.toByteArray();
        }

        private void varint(long value) {
            while ((value & ~0x7fL) != 0) {
                out.write((int) (value & 0x7f | 0x80));
                value >>>= 7;
            }
            out.write((int) value);
        }
    }
}
