package headspring.flink;

import java.util.Arrays;
import java.util.List;
import java.util.Set;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.format.EncodingFormat;
import org.apache.flink.table.connector.sink.DynamicTableSink;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DynamicTableFactory;
import org.apache.flink.table.factories.FactoryUtil;
import org.apache.flink.table.factories.SerializationFormatFactory;
import org.apache.flink.table.types.DataType;

/** SQL format `headspring-features`: one row of columns becomes one record of `features`. */
public final class FeaturesFormat implements SerializationFormatFactory {
    /** All but the record's key; the number of a field in the message is its place here, counted from 1. */
    private static final List<String> COLUMNS =
            Arrays.asList(FeatureBatch.COLUMNS).subList(1, FeatureBatch.COLUMNS.length);

    @Override
    public String factoryIdentifier() {
        return "headspring-features";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of();
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of();
    }

    @Override
    public EncodingFormat<SerializationSchema<RowData>> createEncodingFormat(
            DynamicTableFactory.Context context, ReadableConfig options) {
        FactoryUtil.validateFactoryOptions(this, options);
        return new EncodingFormat<>() {
            @Override
            public SerializationSchema<RowData> createRuntimeEncoder(DynamicTableSink.Context sink, DataType type) {
                List<String> found = DataType.getFieldNames(type);
                if (!found.equals(COLUMNS)) {
                    throw new ValidationException("headspring-features writes the columns "
                            + String.join(", ", COLUMNS) + " in this order; found " + found);
                }
                return new Encoder();
            }

            @Override
            public ChangelogMode getChangelogMode() {
                return ChangelogMode.insertOnly();
            }
        };
    }

    /** Fields 1 tenant, 2 to 5 numbers, 6 and on the columns. */
    static final class Encoder implements SerializationSchema<RowData> {
        private static final long serialVersionUID = 1;
        private static final int FIRST_ARRAY = 5;
        private static final int ROOM = 256;

        @Override
        public byte[] serialize(RowData row) {
            int arrays = row.getArity() - FIRST_ARRAY;
            Wire.Writer message = new Wire.Writer(ROOM + arrays * row.getBinary(FIRST_ARRAY).length);
            message.bytes(1, row.getString(0).toBytes());
            for (int i = 1; i < FIRST_ARRAY; i++) {
                message.number(i + 1, row.getLong(i));
            }
            for (int i = FIRST_ARRAY; i < row.getArity(); i++) {
                message.bytes(i + 1, row.getBinary(i));
            }
            return message.done();
        }
    }
}
