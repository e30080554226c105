/*
 * What an MPI has to do, in one program: `mpi_check MODE`.
 *
 *   check     collectives, one-sided access, large messages: "ok RANKS LIBRARY"
 *   peer      each rank reads the next one's memory by process_vm_readv(2)
 *   die       rank 1 kills itself while the others wait
 *   turns OWN COUNT CYCLES
 *             latency in us of 8 bytes and bandwidth in MB/s of 4 MiB between ranks 0
 *             and 1, and milliseconds for a step of a two-dimensional hydrodynamic
 *             stencil: a line for each cycle, "CYCLE US MB MS". Of COUNT jobs that run
 *             at once each works in its own turn of the clock alone, and sleeps in the
 *             others', so that what the machine does in a second all have in common.
 *   start     the time of day in main(), in ns, without MPI
 */
#define _GNU_SOURCE
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define LARGE (4 << 20)

static int rank, size;

static void fail(const char *what)
{
	fprintf(stderr, "rank %d: %s\n", rank, what);
	MPI_Abort(MPI_COMM_WORLD, 3);
}

static void collectives(void)
{
	int sum = 0, expected = size * (size - 1) / 2;
	MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	if (sum != expected)
		fail("allreduce");
	int *all = malloc(sizeof(int) * size), *back = malloc(sizeof(int) * size);
	for (int i = 0; i < size; i++)
		all[i] = rank * 1000 + i;
	MPI_Alltoall(all, 1, MPI_INT, back, 1, MPI_INT, MPI_COMM_WORLD);
	for (int i = 0; i < size; i++)
		if (back[i] != i * 1000 + rank)
			fail("alltoall");
	free(all);
	free(back);
}

static void one_sided(void)
{
	/* Not MPI_Win_allocate: Debian's MPICH 4.0.2 loses puts into its windows. */
	int window_memory[2] = { 0, 0 }, one = 1;
	MPI_Win window;
	MPI_Win_create(window_memory, sizeof window_memory, sizeof(int), MPI_INFO_NULL, MPI_COMM_WORLD, &window);
	MPI_Win_fence(0, window);
	MPI_Put(&rank, 1, MPI_INT, (rank + 1) % size, 0, 1, MPI_INT, window);
	MPI_Accumulate(&one, 1, MPI_INT, 0, 1, 1, MPI_INT, MPI_SUM, window);
	MPI_Win_fence(0, window);
	if (window_memory[0] != (rank + size - 1) % size)
		fail("put");
	if (rank == 0 && window_memory[1] != size)
		fail("accumulate");
	MPI_Win_free(&window);
}

static void large(void)
{
	char *out = malloc(LARGE), *in = malloc(LARGE);
	memset(out, 'a' + rank % 26, LARGE);
	MPI_Sendrecv(out, LARGE, MPI_CHAR, (rank + 1) % size, 7, in, LARGE, MPI_CHAR,
		     (rank + size - 1) % size, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	if (in[0] != 'a' + (rank + size - 1) % size % 26 || in[LARGE - 1] != in[0])
		fail("large message");
	free(out);
	free(in);
}

struct place {
	long pid;
	void *address;
};

static void peer(void)
{
	static volatile int secret;
	secret = 4242 + rank;
	struct place own = { getpid(), (void *)&secret }, other;
	MPI_Sendrecv(&own, sizeof own, MPI_BYTE, (rank + size - 1) % size, 1, &other, sizeof other,
		     MPI_BYTE, (rank + 1) % size, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	int read = 0;
	struct iovec here = { &read, sizeof read }, there = { other.address, sizeof read };
	if (process_vm_readv(other.pid, &here, 1, &there, 1, 0) != sizeof read)
		fail("process_vm_readv");
	if (read != 4242 + (rank + 1) % size)
		fail("wrong memory");
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0)
		printf("peers ok %d\n", size);
}

static double exchange(char *buffer, int bytes, int rounds)
{
	MPI_Barrier(MPI_COMM_WORLD);
	double start = MPI_Wtime();
	for (int i = 0; i < rounds; i++) {
		if (rank == 0) {
			MPI_Send(buffer, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
			MPI_Recv(buffer, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		} else if (rank == 1) {
			MPI_Recv(buffer, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			MPI_Send(buffer, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
		}
	}
	return (MPI_Wtime() - start) / rounds / 2;
}

/* Rows of a grid, one of the neighbours' above and one below. */
enum { width = 1024, rows = 512 };

struct grid {
	double *now, *next, step;
};

static struct grid grid(void)
{
	size_t count = (rows + 2) * width;
	struct grid new = { calloc(count, sizeof(double)), calloc(count, sizeof(double)), 0.1 };
	for (size_t i = 0; i < count; i++)
		new.now[i] = (i * 31 + rank * 17) % 101 * 0.01 + 1;
	return new;
}

static void advance(struct grid *grid)
{
	int up = rank ? rank - 1 : MPI_PROC_NULL, down = rank + 1 < size ? rank + 1 : MPI_PROC_NULL;
	double *now = grid->now, *next = grid->next, largest = 0, global;
	MPI_Sendrecv(now + width, width, MPI_DOUBLE, up, 0, now + (rows + 1) * width, width, MPI_DOUBLE, down, 0,
		     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	MPI_Sendrecv(now + rows * width, width, MPI_DOUBLE, down, 1, now, width, MPI_DOUBLE, up, 1, MPI_COMM_WORLD,
		     MPI_STATUS_IGNORE);
	for (int y = 1; y <= rows; y++)
		for (int x = 1; x < width - 1; x++) {
			double *at = now + y * width + x;
			double flux = at[-1] + at[1] + at[-width] + at[width] - 4 * at[0];
			double value = at[0] + grid->step * flux / (1 + at[0] * at[0]);
			next[y * width + x] = value;
			if (value > largest)
				largest = value;
		}
	/* The step that all may take, as an explicit scheme needs it. */
	MPI_Allreduce(&largest, &global, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
	*grid = (struct grid){ next, now, 0.2 / (1 + global) };
}

/* Seconds for a step of the stencil, when all have made theirs. */
static double stencil(struct grid *grid, int steps)
{
	MPI_Barrier(MPI_COMM_WORLD);
	double start = MPI_Wtime(), longest;
	for (int i = 0; i < steps; i++)
		advance(grid);
	double own = (MPI_Wtime() - start) / steps;
	MPI_Allreduce(&own, &longest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
	return longest;
}

#define TURN_NS 150000000LL

static long long time_of_day(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Sleeps until the job's next turn; its beginning. */
static long long own_turn(int own, int count)
{
	long long cycle = count * TURN_NS, begin;
	begin = (time_of_day() / cycle + 1) * cycle + own * TURN_NS;
	MPI_Bcast(&begin, 1, MPI_LONG_LONG, 0, MPI_COMM_WORLD);
	struct timespec until = { begin / 1000000000, begin % 1000000000 };
	clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL);
	return begin;
}

static void turns(int own, int count, int cycles)
{
	char *buffer = malloc(LARGE);
	struct grid cells = grid();
	memset(buffer, 1, LARGE);
	for (int i = 0; i < cycles; i++) {
		long long begin = own_turn(own, count);
		/* What another job's turn left in the caches goes first. */
		exchange(buffer, 8, 1000);
		double latency = exchange(buffer, 8, 10000);
		exchange(buffer, LARGE, 2);
		double transfer = exchange(buffer, LARGE, 8);
		stencil(&cells, 2);
		double step = stencil(&cells, 20);
		/* A turn that reached into the next one's says nothing. */
		if (rank == 0 && time_of_day() < begin + TURN_NS)
			printf("%lld %.4f %.1f %.5f\n", begin / (count * TURN_NS), latency * 1e6,
			       LARGE / transfer / 1e6, step * 1e3);
	}
	free(buffer);
	free(cells.now);
	free(cells.next);
}

int main(int count, char **words)
{
	const char *mode = count > 1 ? words[1] : "check";
	if (!strcmp(mode, "start")) {
		printf("%lld\n", time_of_day());
		return 0;
	}
	MPI_Init(&count, &words);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (!strcmp(mode, "check")) {
		char library[MPI_MAX_LIBRARY_VERSION_STRING];
		int length;
		collectives();
		one_sided();
		large();
		MPI_Get_library_version(library, &length);
		library[strcspn(library, "\n,")] = 0;
		MPI_Barrier(MPI_COMM_WORLD);
		if (rank == 0)
			printf("ok %d %s\n", size, library);
	} else if (!strcmp(mode, "peer")) {
		peer();
	} else if (!strcmp(mode, "die")) {
		if (rank == 1)
			raise(SIGKILL);
		MPI_Barrier(MPI_COMM_WORLD);
	} else if (!strcmp(mode, "turns") && count > 4) {
		turns(atoi(words[2]), atoi(words[3]), atoi(words[4]));
	} else {
		fail("no such mode");
	}
	MPI_Finalize();
	return 0;
}
