package headspring.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.function.Consumer;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;

/** One `headspring.v1.MetricBatch`: columns in, one row a sample out. */
final class MetricBatch {
    /** Columns of a sample's row, in order. */
    static final String[] COLUMNS = {"tenant", "shard", "series_id", "time_ns", "value", "kind", "ts"};

    static final int TENANT = 0;
    static final int SHARD = 1;
    static final int SERIES_ID = 2;
    static final int TIME_NS = 3;
    static final int VALUE = 4;
    static final int KIND = 5;
    static final int TS = 6;

    private static final int F_TENANT = 1;
    private static final int F_SHARD = 2;
    private static final int F_RECEIVED_NS = 3;
    private static final int F_SERIES_ID = 4;
    private static final int F_TIME_NS = 5;
    private static final int F_VALUE = 6;
    private static final int F_KIND = 7;

    /** Which time moves the watermarks. */
    enum Clock {
        /** When the batch came in; a batch that does not say takes its samples' own time. */
        RECEIVED,
        /** Each sample's own time, but never later than when the batch came in: fast clocks must not make others late. */
        EVENT
    }

    private MetricBatch() {}

    /**
     * Hands every sample of a batch to `out`; nothing of it if it is not readable.
     *
     * @return how many samples
     * @throws IllegalArgumentException the bytes are no batch, or its columns differ in length
     */
    static int rows(byte[] message, Clock clock, Consumer<RowData> out) {
        Wire.Reader reader = new Wire.Reader(message);
        String tenant = "";
        long shard = 0;
        long receivedNs = 0;
        int[] start = new int[F_KIND + 1];
        int[] length = new int[F_KIND + 1];
        while (reader.next()) {
            if (reader.field == F_TENANT && reader.isBytes()) {
                tenant = reader.text();
            } else if (reader.field == F_SHARD && reader.isNumber()) {
                shard = reader.number & 0xffffffffL;
            } else if (reader.field == F_RECEIVED_NS && reader.isNumber()) {
                receivedNs = reader.number;
            } else if (reader.field >= F_SERIES_ID && reader.field <= F_KIND && reader.isBytes()) {
                start[reader.field] = reader.start;
                length[reader.field] = reader.length;
            }
        }
        int samples = length[F_KIND];
        for (int field = F_SERIES_ID; field < F_KIND; field++) {
            if (length[field] != 8L * samples) {
                throw new IllegalArgumentException("column " + COLUMNS[field - 2] + " has " + length[field]
                        + " bytes, wanted 8 for each of " + samples + " samples");
            }
        }
        ByteBuffer columns = ByteBuffer.wrap(message).order(ByteOrder.LITTLE_ENDIAN);
        StringData name = StringData.fromString(tenant);
        for (int i = 0; i < samples; i++) {
            long timeNs = columns.getLong(start[F_TIME_NS] + 8 * i);
            GenericRowData row = new GenericRowData(COLUMNS.length);
            row.setField(TENANT, name);
            row.setField(SHARD, shard);
            row.setField(SERIES_ID, columns.getLong(start[F_SERIES_ID] + 8 * i));
            row.setField(TIME_NS, timeNs);
            row.setField(VALUE, columns.getDouble(start[F_VALUE] + 8 * i));
            row.setField(KIND, message[start[F_KIND] + i]);
            row.setField(TS, TimestampData.fromEpochMillis(Math.floorDiv(moment(clock, timeNs, receivedNs), 1_000_000L)));
            out.accept(row);
        }
        return samples;
    }

    private static long moment(Clock clock, long timeNs, long receivedNs) {
        if (receivedNs == 0) {
            return timeNs;
        }
        return clock == Clock.RECEIVED ? receivedNs : Math.min(timeNs, receivedNs);
    }
}
