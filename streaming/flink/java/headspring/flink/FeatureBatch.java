package headspring.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.types.logical.BigIntType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.logical.VarBinaryType;
import org.apache.flink.table.types.logical.VarCharType;

/** Rows of one shard and one window end, as the columns of one `headspring.v1.FeatureBatch`. */
final class FeatureBatch {
    /** Columns of a batch's row, in order; from `series_id` on, one 8-byte number a series. */
    static final String[] COLUMNS = {
        "record_key", "tenant", "shard", "window_end_ns", "window_ns", "emitted_ns", "series_id", "count", "mean",
        "std", "minimum", "maximum", "first", "last", "last_time_ns", "recent_mean", "recent_count"
    };

    private static final int FIRST_TEXTS = 2;
    private static final int FIRST_ARRAY = 6;
    private static final int ARRAYS = COLUMNS.length - FIRST_ARRAY;
    private static final char SEPARATOR = '\u001f';

    private final String tenant;
    private final long shard;
    private final ByteBuffer[] arrays = new ByteBuffer[ARRAYS];
    private int rows;

    FeatureBatch(String tenant, long shard) {
        this.tenant = tenant;
        this.shard = shard;
        for (int i = 0; i < ARRAYS; i++) {
            arrays[i] = ByteBuffer.allocate(8 * 64).order(ByteOrder.LITTLE_ENDIAN);
        }
    }

    static RowType rowType() {
        LogicalType[] types = new LogicalType[COLUMNS.length];
        Arrays.fill(types, 0, FIRST_TEXTS, new VarCharType(false, VarCharType.MAX_LENGTH));
        Arrays.fill(types, FIRST_TEXTS, FIRST_ARRAY, new BigIntType(false));
        Arrays.fill(types, FIRST_ARRAY, types.length, new VarBinaryType(false, VarBinaryType.MAX_LENGTH));
        return RowType.of(false, types, COLUMNS);
    }

    int rows() {
        return rows;
    }

    void add(long seriesId, Features features) {
        if (!arrays[0].hasRemaining()) {
            for (int i = 0; i < ARRAYS; i++) {
                ByteBuffer larger = ByteBuffer.allocate(2 * arrays[i].capacity()).order(ByteOrder.LITTLE_ENDIAN);
                arrays[i] = larger.put(arrays[i].flip());
            }
        }
        arrays[0].putLong(seriesId);
        arrays[1].putLong(features.count);
        arrays[2].putDouble(features.mean);
        arrays[3].putDouble(features.std);
        arrays[4].putDouble(features.minimum);
        arrays[5].putDouble(features.maximum);
        arrays[6].putDouble(features.first);
        arrays[7].putDouble(features.last);
        arrays[8].putLong(features.lastTime);
        arrays[9].putDouble(features.recentMean);
        arrays[10].putLong(features.recentCount);
        rows++;
    }

    /** The batch so far, and an empty one from now on. */
    RowData take(long windowEndNs, long windowNs, long emittedNs) {
        GenericRowData row = new GenericRowData(COLUMNS.length);
        row.setField(0, StringData.fromString(tenant + SEPARATOR + shard));
        row.setField(1, StringData.fromString(tenant));
        row.setField(2, shard);
        row.setField(3, windowEndNs);
        row.setField(4, windowNs);
        row.setField(5, emittedNs);
        for (int i = 0; i < ARRAYS; i++) {
            row.setField(FIRST_ARRAY + i, Arrays.copyOf(arrays[i].array(), arrays[i].position()));
            arrays[i].clear();
        }
        rows = 0;
        return row;
    }
}
