package headspring.flink;

import java.util.List;
import java.util.Set;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.metrics.Counter;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.format.DecodingFormat;
import org.apache.flink.table.connector.source.DynamicTableSource;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DeserializationFormatFactory;
import org.apache.flink.table.factories.DynamicTableFactory;
import org.apache.flink.table.factories.FactoryUtil;
import org.apache.flink.table.types.DataType;
import org.apache.flink.util.Collector;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** SQL format `headspring-metrics`: a record of `telemetry.metrics` becomes one row a sample. */
public final class MetricsFormat implements DeserializationFormatFactory {
    private static final ConfigOption<MetricBatch.Clock> CLOCK = ConfigOptions.key("clock")
            .enumType(MetricBatch.Clock.class)
            .defaultValue(MetricBatch.Clock.RECEIVED)
            .withDescription("What `ts` is: `received`, when the batch came in, or `event`, the sample's own time.");

    @Override
    public String factoryIdentifier() {
        return "headspring-metrics";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of();
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of(CLOCK);
    }

    @Override
    public DecodingFormat<DeserializationSchema<RowData>> createDecodingFormat(
            DynamicTableFactory.Context context, ReadableConfig options) {
        FactoryUtil.validateFactoryOptions(this, options);
        MetricBatch.Clock clock = options.get(CLOCK);
        return new DecodingFormat<>() {
            @Override
            public DeserializationSchema<RowData> createRuntimeDecoder(
                    DynamicTableSource.Context source, DataType type) {
                List<String> found = DataType.getFieldNames(type);
                if (!found.equals(List.of(MetricBatch.COLUMNS))) {
                    throw new ValidationException("headspring-metrics reads the columns "
                            + String.join(", ", MetricBatch.COLUMNS) + " in this order; found " + found);
                }
                return new Decoder(source.createTypeInformation(type), clock);
            }

            @Override
            public ChangelogMode getChangelogMode() {
                return ChangelogMode.insertOnly();
            }
        };
    }

    /** Never fails a job: what cannot be read is counted, logged now and then, and left out. */
    static final class Decoder implements DeserializationSchema<RowData> {
        private static final long serialVersionUID = 1;
        private static final Logger LOG = LoggerFactory.getLogger(MetricsFormat.class);
        private static final long LOG_EVERY_NS = 10_000_000_000L;

        private final TypeInformation<RowData> type;
        private final MetricBatch.Clock clock;
        private transient Counter bad;
        private transient Counter samples;
        private transient long quietUntilNs;

        Decoder(TypeInformation<RowData> type, MetricBatch.Clock clock) {
            this.type = type;
            this.clock = clock;
        }

        @Override
        public void open(InitializationContext context) {
            bad = context.getMetricGroup().counter("headspring_bad_records");
            samples = context.getMetricGroup().counter("headspring_samples");
            quietUntilNs = System.nanoTime();
        }

        @Override
        public void deserialize(byte[] message, Collector<RowData> out) {
            try {
                samples.inc(message == null ? 0 : MetricBatch.rows(message, clock, out::collect));
            } catch (IllegalArgumentException error) {
                bad.inc();
                if (System.nanoTime() - quietUntilNs >= 0) {
                    quietUntilNs = System.nanoTime() + LOG_EVERY_NS;
                    LOG.warn("left out a record of {} bytes that is no metric batch ({} so far): {}",
                            message.length, bad.getCount(), error.getMessage());
                }
            }
        }

        @Override
        public RowData deserialize(byte[] message) {
            throw new UnsupportedOperationException("one batch is many rows");
        }

        @Override
        public boolean isEndOfStream(RowData row) {
            return false;
        }

        @Override
        public TypeInformation<RowData> getProducedType() {
            return type;
        }
    }
}
