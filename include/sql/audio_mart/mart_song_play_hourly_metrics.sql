select
    play.play_start_date as play_date,
    hour(play.play_start_ts) as play_hour,
    count(distinct play.user_id) as uniq_users,
    -- The length keeps two songs apart whose artist and name are one text together. No artist and no name is ''.
    count(distinct case
        when play.song_artist is not null or play.song_name is not null
            then concat(
                coalesce(length(play.song_artist), 0), ' ', coalesce(play.song_artist, ''), coalesce(play.song_name, '')
            )
    end) as uniq_songs,
    count(distinct play.user_agent) as uniq_user_agents
from audio_mart.mart_song_play as play
group by play.play_start_date, hour(play.play_start_ts)
